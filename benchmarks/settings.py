"""The settings and batches of activations of every trainer under comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from temporal_sae.latents import Latents

Reconstruct = Callable[[Tensor], tuple[Latents, Tensor]]


class Unsupported(Exception):
    """The package's own trainer cannot do what is asked for."""


@dataclass(frozen=True)
class Settings:
    """A training run, in the terms that all packages share.

    Attributes:
        lr: full learning rate; None for the package's own rule.
        decay: share of the steps, at the end, in which the rate falls to 0.
        dead_after: tokens of silence until a latent is dead; None for the package's own.
        storage: of the tracker's averages.
        ours: further options of our Trainer.
    """

    d_in: int
    d_sae: int
    k: int
    batch: int
    steps: int
    lr: float | None = None
    warmup: int = 1000
    decay: float = 0.2
    dead_after: int | None = None
    device: str = "cpu"
    precision: str = "float32"
    seed: int = 0
    storage: str = "auto"
    ours: dict[str, Any] = field(default_factory=dict)

    @property
    def decay_steps(self) -> int:
        return round(self.decay * self.steps)


class Tokens(Iterator[Tensor]):
    """Consecutive batches of a tensor, over and over; notes when each was asked for.

    Args:
        x: activations, [tokens, d_in].
        batch: rows of a batch; what does not fill one at the end is left out.
    """

    def __init__(self, x: Tensor, batch: int) -> None:
        self.x, self.batch = x, batch
        self.times: list[float] = []

    def __next__(self) -> Tensor:
        start = len(self.times) % (len(self.x) // self.batch) * self.batch
        self.times.append(time.perf_counter())
        return self.x[start : start + self.batch]

    def sample(self, n: int) -> Tensor:
        """Up to `n` rows; nothing is consumed."""
        return self.x[:: max(1, len(self.x) // n)][:n]
