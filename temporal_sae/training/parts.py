"""Protocols that the trainer knows, and the bundle of one run's parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from temporal_sae.activations import ActivationBatch, ActivationStream
from temporal_sae.activations.given import as_source
from temporal_sae.latents import Latents
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.loss.overlap import Into
from temporal_sae.machine import Planned
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.tracker import NoTracker
from temporal_sae.tracker.stability import StabilityMonitor
from temporal_sae.training.checkpoint import Checkpoints, NoCheckpoints
from temporal_sae.training.loggers import MetricsLogger, NoLogger
from temporal_sae.training.progress import NoProgress, ProgressDisplay
from temporal_sae.training.snapshots import Snapshots
from temporal_sae.training.state_file import State
from temporal_sae.training.streams import SharedStream


@runtime_checkable
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


def in_order(tracker: Tracker) -> bool:
    """Return True for a tracker that is fed the rows in stream order, beside the batches."""
    return tracker.stream != "shuffled"


@runtime_checkable
class PairPenalty(Protocol):
    """A weighted penalty on pairs of latents.

    `through_latents` says whether its gradient goes by the latents' values, and then perhaps by the
    decoder too; if not, it is a `DecoderPenalty`. `needs_tracker` says whether it is 0 before the
    first window. One that has an `interval` n acts in the n-th step and every n-th after it.
    """

    ortho_weight: float
    through_latents: bool
    needs_tracker: bool

    def planned_bytes(self, n_latents: int, d_in: int) -> dict[str, Planned]: ...
    def __call__(self, W_dec: Tensor, tracker: Any, latents: Latents | None) -> Tensor: ...


def interval_of(penalty: PairPenalty) -> int:
    """Return the steps from one in which a penalty acts to the next."""
    return int(getattr(penalty, "interval", 1))


class DecoderPenalty(PairPenalty, Protocol):
    """A penalty on decoder rows."""

    def add_gradient(self, W_dec: Tensor, tracker: Any, into: Into) -> Tensor: ...


@dataclass
class Parts:
    """Everything that has a state while an SAE is trained; only the first two are needed.

    Attributes:
        sae: to be trained.
        batches: a stream of activations, or anything that `as_source` takes.
        tracker, penalty: the method; without them the plain SAE is trained.
        logger: receives the metrics.
        checkpoints: where the run is saved, and continued from.
        progress: shows how far it is.
        stability: watches tracker and decoder.
        snapshots: where `Trainer.keep_every` is set.
        finetune: an SAE that takes activations as they are, whose weights are the start.
        seed: of the shuffling, where `batches` is no stream yet.
    """

    sae: SparseAutoencoder
    batches: Any
    tracker: Any = None
    penalty: Any = None
    logger: MetricsLogger = field(default_factory=NoLogger)
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)
    progress: ProgressDisplay = field(default_factory=NoProgress)
    stability: StabilityMonitor | None = None
    snapshots: Snapshots | None = None
    finetune: SparseAutoencoder | None = None
    seed: int = 0

    def complete(self, batch_size: int) -> None:
        """Fill in what has been left out."""
        device = self.sae.W_dec.device
        if self.tracker is None:
            self.tracker = NoTracker(self.sae.d_sae, device=device)
        if self.penalty is None:
            self.penalty = OrthogonalityLoss(ortho_weight=0.0)
        if not isinstance(self.batches, Batches):
            source = as_source(self.batches, device)
            source.open()
            self.batches = source.stream(batch_size, self.seed)
        if isinstance(self.batches, ActivationStream):
            self.batches = SharedStream(self.batches).view(in_order(self.tracker))

    @property
    def stream(self) -> Batches:
        """The stream of activations."""
        return cast(Batches, self.batches)
