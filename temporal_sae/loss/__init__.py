"""The terms of the training loss."""

from temporal_sae.loss.consecutive import ConsecutiveLoss
from temporal_sae.loss.orthogonality import OrthogonalityLoss
from temporal_sae.loss.terms import auxk_loss, l1_loss, reconstruction_loss

__all__ = ["ConsecutiveLoss", "OrthogonalityLoss", "auxk_loss", "l1_loss", "reconstruction_loss"]
