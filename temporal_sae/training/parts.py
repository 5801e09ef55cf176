"""Protocols that the trainer knows, and the bundle of one run's parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from temporal_sae.activations import ActivationBatch
from temporal_sae.latents import Latents
from temporal_sae.machine import Planned
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.tracker.stability import StabilityMonitor
from temporal_sae.training.checkpoint import Checkpoints, State
from temporal_sae.training.loggers import MetricsLogger
from temporal_sae.training.progress import ProgressDisplay
from temporal_sae.training.snapshots import Snapshots


class Batches(Protocol):
    """Endless shuffled activations that can be saved and continued."""

    def __next__(self) -> ActivationBatch: ...
    def sample(self, n: int) -> Tensor: ...
    def metrics(self) -> dict[str, Tensor]: ...
    def state_dict(self) -> State: ...
    def load_state_dict(self, state: State) -> None: ...


@runtime_checkable
class Tracker(Protocol):
    """The side of a tracker that the trainer uses; the penalty uses more.

    `gives_weights` says whether any pair will ever have a weight. `planned_bytes` is asked of a
    tracker with the options of a run, before there is the one that it trains with.
    """

    stream: str
    windows_closed: int
    gives_weights: bool

    def planned_bytes(self, n_latents: int, k: int, device: torch.device) -> dict[str, Planned]: ...

    def update(self, indices: Tensor) -> None: ...
    def state_dict(self) -> State: ...
    def load_state_dict(self, state: State) -> None: ...


@runtime_checkable
class PairPenalty(Protocol):
    """A weighted penalty on pairs of latents.

    `through_latents` says whether its gradient goes by the latents' values; if not, it is a
    `DecoderPenalty`. `needs_tracker` says whether it is 0 before the first window.
    """

    ortho_weight: float
    through_latents: bool
    needs_tracker: bool

    def planned_bytes(self, n_latents: int, d_in: int) -> dict[str, Planned]: ...
    def __call__(self, W_dec: Tensor, tracker: Any, latents: Latents | None) -> Tensor: ...


class DecoderPenalty(PairPenalty, Protocol):
    """A penalty on decoder rows."""

    def add_gradient(self, W_dec: Tensor, tracker: Any, into: Tensor) -> Tensor: ...


@dataclass
class Parts:
    """Everything that has a state while an SAE is trained."""

    sae: SparseAutoencoder
    batches: Batches
    tracker: Tracker
    penalty: PairPenalty
    logger: MetricsLogger
    checkpoints: Checkpoints
    progress: ProgressDisplay
    stability: StabilityMonitor | None = None
    snapshots: Snapshots | None = None  # where `Trainer.keep_every` is set
