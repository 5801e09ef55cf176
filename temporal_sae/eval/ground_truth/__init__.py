"""Evaluation against features that are known to be true."""

from temporal_sae.eval.ground_truth.evaluation import GroundTruthEvaluation
from temporal_sae.eval.ground_truth.matching import match
from temporal_sae.eval.ground_truth.truth import KnownSource, Truth

__all__ = ["GroundTruthEvaluation", "KnownSource", "Truth", "match"]
