"""Evaluation of a trained SAE."""

from temporal_sae.eval.auto import AutoEvaluation
from temporal_sae.eval.core import CoreEvaluation
from temporal_sae.eval.decoder import decoder_metrics
from temporal_sae.eval.files import EvaluationFiles
from temporal_sae.eval.ground_truth import GroundTruthEvaluation
from temporal_sae.eval.none import NoEvaluation
from temporal_sae.eval.rows import ActivationsEvaluation
from temporal_sae.eval.subject import Evaluation, Outcome, Subject

__all__ = [
    "ActivationsEvaluation",
    "AutoEvaluation",
    "CoreEvaluation",
    "Evaluation",
    "EvaluationFiles",
    "GroundTruthEvaluation",
    "NoEvaluation",
    "Outcome",
    "Subject",
    "decoder_metrics",
]
