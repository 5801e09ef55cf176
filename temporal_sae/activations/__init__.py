"""Sources of activations, and their way into shuffled batches."""

from temporal_sae.activations.files import ActivationFiles
from temporal_sae.activations.harvest import Harvest
from temporal_sae.activations.language_model import LanguageModel
from temporal_sae.activations.rows import ActivationBatch, Rows
from temporal_sae.activations.shuffle import ShuffleBuffer
from temporal_sae.activations.source import ActivationSource
from temporal_sae.activations.store import ActivationStore
from temporal_sae.activations.stream import ActivationStream
from temporal_sae.activations.synthetic import SyntheticActivations
from temporal_sae.activations.synthsaebench import SynthSAEBenchActivations
from temporal_sae.activations.world import World
from temporal_sae.activations.world_options import WorldOptions

__all__ = [
    "ActivationBatch",
    "ActivationFiles",
    "ActivationSource",
    "ActivationStore",
    "ActivationStream",
    "Harvest",
    "LanguageModel",
    "Rows",
    "ShuffleBuffer",
    "SynthSAEBenchActivations",
    "SyntheticActivations",
    "World",
    "WorldOptions",
]
