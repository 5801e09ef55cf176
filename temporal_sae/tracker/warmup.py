"""Counts of latents during warm-up, by which a control can keep rates and change pairs."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae.tracker.totals import latent_counts

SILENT = -(2**30)  # the bin of latents that were never active


class WarmupCounts:
    """Tokens in which each latent was active, in the windows that begin before a token.

    Args:
        n_latents: F.
        n_tokens: the number of that token in the stream, above 0.
        window_size: W.
        device: where the counts live.

    Attributes:
        n: int64 [F]; None after going on from a state that lacks it.
        n_windows: that are counted in all.
    """

    def __init__(
        self, n_latents: int, n_tokens: int, window_size: int, device: torch.device
    ) -> None:
        self.n_latents, self.window_size = n_latents, window_size
        self.n_windows = -(-n_tokens // window_size)
        self.n: Int[Tensor, " F"] | None = torch.zeros(n_latents, dtype=torch.int64, device=device)

    def add(self, rows: Int[Tensor, "W K"]) -> None:
        """Add a window."""
        if self.n is not None:
            self.n += latent_counts(rows, self.n_latents)

    def bins(self) -> Int[Tensor, " F"]:
        """Return ⌊log2 p⌋ of each latent, p being its share of the tokens; silent ones have one.

        Raises:
            ValueError: see `n`.
        """
        if self.n is None:
            raise ValueError("tracker: goes on from a state without counts of the warm-up")
        share = self.n.double() / (self.n_windows * self.window_size)
        exponent = torch.frexp(share).exponent - 1  # exact, where a logarithm would round
        return torch.where(self.n > 0, exponent.long(), SILENT)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {} if self.n is None else {"warmup": self.n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore, from a tracker's state."""
        n = state.get("warmup")
        if n is None and state["windows_closed"] == 0:
            n = torch.zeros(self.n_latents, dtype=torch.int64)
        self.n = n if n is None or self.n is None else n.to(self.n.device, copy=True)
