"""The tracker as the reference transcript really ran it, kept for the record.

It differs from the method in four ways, each visible in its results:

- a "window" is whatever has arrived when at least `window_size` tokens are there at the end of a
  batch, so with 2048 tokens a batch and a window of 1000 every batch is one window;
- α of row i comes from the rate at which latent i itself fires, divided by `alpha_scale`: at most
  0.001 with the defaults, and different for (i, j) and (j, i), so the averages are not symmetric;
- the weights are read from the running average itself, after it took the window in, so that
  the instability s is 0 for every pair;
- the average starts at zero and, with such a small α, stays near it.

What the transcript leaves open is settled here as: averages start at zero, zero diagonal.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.tracker.reference import count_pairs
from temporal_sae.tracker.tracker import CoActivationTracker
from temporal_sae.tracker.weights import Weighting


class TranscriptTracker(CoActivationTracker):
    """`CoActivationTracker` with the transcript's windows, α and weights.

    Args: as of `CoActivationTracker`; the options that the transcript did not have are fixed.
    """

    weights_follow_window = False

    def __init__(
        self,
        n_latents: int,
        window_size: int = 1000,
        alpha_cap: float = 0.1,
        alpha_scale: float = 1000.0,
        device: str | torch.device = "cpu",
        stream: str = "shuffled",
    ) -> None:
        super().__init__(
            n_latents,
            window_size,
            alpha_cap,
            alpha_scale,
            init="zero",
            device=device,
            stream=stream,
        )

    @torch.no_grad()
    def update(self, indices: Int[Tensor, "tokens k"]) -> None:
        """Take in a batch; it closes the window if enough tokens are there, and never splits."""
        self.tokens_seen += indices.shape[0]
        self._open.add(indices.to(self.device))
        if self._open.size >= self.window_size:
            self._close()

    def _close(self) -> None:
        self.windows_closed += 1
        self.last_window = self._open.take()
        store = self.storage
        store.rates = count_pairs(self.last_window, self.n_latents) / self.last_window.shape[0]
        alpha = (store.rates.diagonal() / store.alpha.scale).clamp(max=store.alpha.cap)
        store.averages = torch.lerp(store.averages, store.rates, alpha[:, None])
        store.reference = store.averages
        self._weight_sums = {}

    def weight(self, i: Tensor, j: Tensor, weighting: Weighting = "instability") -> Tensor:
        """The running average, whatever the weighting: the transcript's s is 0."""
        return super().weight(i, j, "average")

    def weight_matrix(self, weighting: Weighting = "instability") -> Float[Tensor, "F F"]:
        """The running averages, zero diagonal."""
        return super().weight_matrix("average")


class NoTracker:
    """`tracker=off`: sees nothing and weighs nothing, so the plain SAE remains."""

    stream = "shuffled"
    weights_follow_window = False
    windows_closed = 0
    tokens_seen = 0
    last_window: None = None

    def __init__(self, n_latents: int, device: str | torch.device = "cpu") -> None:
        self.n_latents = n_latents

    def update(self, indices: Int[Tensor, "tokens k"]) -> None:
        """Nothing happens."""

    def nbytes(self) -> int:
        """Nothing is held."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """Nothing to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
