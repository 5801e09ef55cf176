"""The terms of the training loss."""

from temporal_sae.loss.c2r import ConsistencyLoss
from temporal_sae.loss.consecutive import ConsecutiveLoss
from temporal_sae.loss.orthogonality import OrthogonalityLoss
from temporal_sae.loss.ortsae import ChunkedOrthogonalityLoss
from temporal_sae.loss.terms import auxk_loss, reconstruction_loss

__all__ = [
    "ChunkedOrthogonalityLoss",
    "ConsecutiveLoss",
    "ConsistencyLoss",
    "OrthogonalityLoss",
    "auxk_loss",
    "reconstruction_loss",
]
