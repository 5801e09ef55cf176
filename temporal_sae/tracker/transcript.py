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

from temporal_sae.errors import check_choice
from temporal_sae.machine import Planned
from temporal_sae.registry import component
from temporal_sae.tracker.processes import rows_of_all
from temporal_sae.tracker.reference import ReferenceState, count_pairs
from temporal_sae.tracker.tracker import CoActivationTracker


class TranscriptState(ReferenceState):
    """`ReferenceState` with the transcript's α; the averages are not symmetric."""

    def close(self, rows: Int[Tensor, "W K"], number: int) -> None:
        """Fold in a window with α_i from the rate of latent i, and weigh by the result."""
        self.last_window, self.number = rows, number
        self.rates = count_pairs(rows, self.n_latents) / rows.shape[0]
        alpha = (self.rates.diagonal() / self.alpha.scale).clamp(max=self.alpha.cap)
        averages = self.averages + alpha[:, None] * (self.rates - self.averages)
        self.averages = self.reference = averages.fill_diagonal_(0)

    def row_block(self, what: str, lo: int, hi: int) -> Float[Tensor, "rows F"]:
        """Return the mean of (i, j) and (j, i), which is what a symmetric overlap sees."""
        if what == "rate":
            return super().row_block(what, lo, hi)
        return ((self.averages[lo:hi] + self.averages.T[lo:hi]) / 2).triu(lo + 1)

    def average_sum(self) -> Float[Tensor, ""]:
        """Half the sum over ordered pairs, float64."""
        return self.averages.sum(dtype=torch.float64) / 2

    def state_dict(self) -> dict[str, Any]:
        """Return the whole matrix: there is no triangle that says it all."""
        return {"matrix": self.averages}

    def load_state_dict(self, state: dict[str, Any], rows: Tensor | None, number: int) -> None:
        """Restore; the rates are counted again from the last window."""
        self.averages = self.reference = state["matrix"].to(self.device)
        self.last_window, self.number = rows, number
        if rows is not None:
            self.rates = count_pairs(rows, self.n_latents) / rows.shape[0]


@component("tracker")
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
            storage="reference",
            device=device,
            stream=check_choice("stream", stream, ("shuffled", "ordered")),
        )

    def _new_state(self, storage: str) -> TranscriptState:
        return TranscriptState(self.n_latents, self.alpha, self.device)

    @torch.no_grad()
    def update(self, indices: Int[Tensor, "tokens K"]) -> None:
        """Take in a batch; it closes the window if enough tokens are there, and never splits."""
        rows = rows_of_all(indices, self.n_latents, self.device)
        self.tokens_seen += rows.shape[0]
        self._open.add(rows)
        if self._open.size >= self.window_size:
            self._close()

    def weight(self, i: Tensor, j: Tensor, weighting: str = "instability") -> Tensor:
        """Return the running average, whatever the weighting: the transcript's s is 0."""
        return self.average(i, j)

    def weight_rows(
        self, lo: int, hi: int, weighting: str = "instability"
    ) -> Float[Tensor, "rows F"]:
        """Return the symmetric running averages of the latents i from `lo` to `hi` and j > i."""
        return super().weight_rows(lo, hi, "long_average")

    def weight_matrix(self, weighting: str = "instability") -> Float[Tensor, "F F"]:
        """Return the running averages as they are, not symmetric; zero diagonal."""
        assert isinstance(self._state, TranscriptState)
        return self._state.averages

    def rate_matrix(self) -> Float[Tensor, "F F"]:
        """c of every pair in the last window, zero diagonal."""
        assert isinstance(self._state, TranscriptState)
        return self._state.rates.clone().fill_diagonal_(0)

    def weight_sum(
        self, weighting: str = "instability", of_window: bool = False
    ) -> Float[Tensor, ""]:
        """Σ of the running averages over all ordered pairs i ≠ j."""
        return super().weight_sum("long_average")


@component("tracker")
class NoTracker:
    """`tracker=off`: weighs nothing, so the plain SAE remains; it only counts tokens.

    The count is what penalties without a tracker draw their random samples from.
    """

    stream = "shuffled"
    weights_follow_window = False
    gives_weights = False
    windows_closed = 0
    last_window: None = None
    totals: None = None
    totals_from: None = None
    warmup: None = None

    def __init__(self, n_latents: int, device: str | torch.device = "cpu") -> None:
        self.n_latents = n_latents
        self.tokens_seen = 0

    def has_weights(self, weighting: str = "instability") -> bool:
        """Return False."""
        return False

    def tokens_before(self, windows: int) -> int:
        """Return more than any run has: there are no windows."""
        return 2**63

    def tokens_before_weights(self, weighting: str = "instability") -> int:
        """Return as many."""
        return self.tokens_before(1)

    def planned_bytes(self, n_latents: int, k: int, device: torch.device) -> dict[str, Planned]:
        """Nothing is held."""
        return {}

    def update(self, indices: Int[Tensor, "tokens k"]) -> None:
        """Count the tokens."""
        self.tokens_seen += indices.shape[0]

    def nbytes(self) -> int:
        """Nothing is held."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """Return the number of tokens seen."""
        return {"tokens_seen": self.tokens_seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self.tokens_seen = int(state["tokens_seen"])
