"""Evaluation of a trained SAE."""

from temporal_sae.eval.core import CoreEvaluation
from temporal_sae.eval.decoder import decoder_metrics
from temporal_sae.eval.none import NoEvaluation

__all__ = ["CoreEvaluation", "NoEvaluation", "decoder_metrics"]
