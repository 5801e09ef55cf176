"""Activations of a language model at one place, shuffled into batches."""

from temporal_sae.activations.language_model import LanguageModel
from temporal_sae.activations.shuffle import ShuffleBuffer
from temporal_sae.activations.stream import ActivationBatch, ActivationSource, ActivationStream

__all__ = [
    "ActivationBatch",
    "ActivationSource",
    "ActivationStream",
    "LanguageModel",
    "ShuffleBuffer",
]
