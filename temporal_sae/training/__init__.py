"""Training: the loop, its schedule, checkpoints and loggers."""

from temporal_sae.training.checkpoint import Checkpoints
from temporal_sae.training.loggers import JsonlLogger, WandbLogger
from temporal_sae.training.parts import Parts
from temporal_sae.training.progress import ProgressDisplay
from temporal_sae.training.trainer import Stopped, Trainer

__all__ = [
    "Checkpoints",
    "JsonlLogger",
    "Parts",
    "ProgressDisplay",
    "Stopped",
    "Trainer",
    "WandbLogger",
]
