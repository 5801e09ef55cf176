"""Training: the loop, its schedule, checkpoints and loggers."""

from temporal_sae.training.checkpoint import Checkpoints
from temporal_sae.training.loggers import (
    About,
    EndTable,
    JsonlLogger,
    Loggers,
    MetricsLogger,
    NoLogger,
    TakesTable,
    logged_steps,
)
from temporal_sae.training.parts import Parts
from temporal_sae.training.progress import ProgressDisplay
from temporal_sae.training.snapshots import Snapshots
from temporal_sae.training.streams import SharedStream
from temporal_sae.training.tensorboard_logger import TensorBoardLogger
from temporal_sae.training.together import Lane, Preempted, Stopped, train_together
from temporal_sae.training.trainer import Trainer
from temporal_sae.training.wandb_logger import WandbLogger

__all__ = [
    "About",
    "Checkpoints",
    "EndTable",
    "JsonlLogger",
    "Lane",
    "Loggers",
    "MetricsLogger",
    "NoLogger",
    "Parts",
    "Preempted",
    "ProgressDisplay",
    "SharedStream",
    "Snapshots",
    "Stopped",
    "TakesTable",
    "TensorBoardLogger",
    "Trainer",
    "WandbLogger",
    "logged_steps",
    "train_together",
]
