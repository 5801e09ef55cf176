"""Training: the loop, its schedule, checkpoints and loggers."""

from temporal_sae.training.checkpoint import Checkpoints
from temporal_sae.training.loggers import JsonlLogger, WandbLogger
from temporal_sae.training.progress import ProgressDisplay
from temporal_sae.training.trainer import Parts, Stopped, Trainer

__all__ = [
    "Checkpoints",
    "JsonlLogger",
    "Parts",
    "ProgressDisplay",
    "Stopped",
    "Trainer",
    "WandbLogger",
]
