"""Training: the loop, its schedule, checkpoints and loggers."""

from temporal_sae.training.checkpoint import Checkpoints
from temporal_sae.training.loggers import About, JsonlLogger, MetricsLogger, NoLogger
from temporal_sae.training.parts import Parts
from temporal_sae.training.progress import ProgressDisplay
from temporal_sae.training.snapshots import Snapshots
from temporal_sae.training.streams import SharedStream
from temporal_sae.training.together import Lane, Preempted, Stopped, train_together
from temporal_sae.training.trainer import Trainer
from temporal_sae.training.wandb_logger import WandbLogger

__all__ = [
    "About",
    "Checkpoints",
    "JsonlLogger",
    "Lane",
    "MetricsLogger",
    "NoLogger",
    "Parts",
    "Preempted",
    "ProgressDisplay",
    "SharedStream",
    "Snapshots",
    "Stopped",
    "Trainer",
    "WandbLogger",
    "train_together",
]
