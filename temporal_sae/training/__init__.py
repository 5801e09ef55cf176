"""Training: the loop, its schedule, checkpoints and loggers."""

from temporal_sae.training.checkpoint import Checkpoints
from temporal_sae.training.loggers import JsonlLogger, NoLogger, WandbLogger
from temporal_sae.training.parts import Parts
from temporal_sae.training.progress import ProgressDisplay
from temporal_sae.training.trainer import Preempted, Stopped, Trainer

__all__ = [
    "Checkpoints",
    "JsonlLogger",
    "NoLogger",
    "Parts",
    "Preempted",
    "ProgressDisplay",
    "Stopped",
    "Trainer",
    "WandbLogger",
]
