"""The tracker's state as dense matrices in plain torch: the oracle for every faster one."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.tracker.alpha import AlphaRule, divide, moved
from temporal_sae.tracker.saved import check_rows, saved_pairs
from temporal_sae.tracker.statistics import instability
from temporal_sae.tracker.window import Window


def count_pairs(rows: Int[Tensor, "tokens K"], n_latents: int) -> Float[Tensor, "F F"]:
    """n_ij, the tokens in which both are active; n_ii counts those in which i is. Exact integers.

    The product of the masks, as the definition says; float32 holds integers to 2^24.
    """
    mask = torch.zeros(rows.shape[0], n_latents + 1, device=rows.device)
    mask.scatter_(1, torch.where(rows >= 0, rows, n_latents).long(), 1.0)
    mask = mask[:, :n_latents]
    return mask.T @ mask


def upper_sum(matrix: Float[Tensor, "F F"]) -> Float[Tensor, ""]:
    """Σ_{i<j}, float64."""
    return matrix.triu(1).sum(dtype=torch.float64)


class ReferenceState:
    """Rates c, the average before the last window, and the running average c̄, each [F, F] float32.

    Args:
        n_latents: F.
        alpha: the rule for α.
        device: where the matrices live.
    """

    def __init__(self, n_latents: int, alpha: AlphaRule, device: torch.device) -> None:
        self.n_latents, self.alpha, self.device = n_latents, alpha, device
        self.last_window: Int[Tensor, "W K"] | None = None
        self.number = 0
        self.rates = torch.zeros(n_latents, n_latents, device=device)
        self.reference = torch.zeros_like(self.rates)
        self.averages = torch.zeros_like(self.rates)

    def close(self, rows: Int[Tensor, "W K"], number: int) -> None:
        """Fold in window number `number` (1, 2, …), whose tokens had these active latents."""
        self._compare(rows, number, self.averages)

    def closed(self) -> Window:
        """Return the last closed window."""
        assert self.last_window is not None
        return Window(self.last_window, self.n_latents)

    def _compare(self, rows: Tensor, number: int, before: Tensor) -> None:
        counts = count_pairs(rows, self.n_latents)
        self.last_window, self.number = rows, number
        self.rates = divide(counts, rows.shape[0])
        own = counts.diagonal()[:, None], counts.diagonal()[None, :]
        averages = moved(self.alpha.step(number), before, counts, rows.shape[0], own)
        self.averages = averages.fill_diagonal_(0)
        self.reference = self.averages if self.alpha.takes_over(number) else before

    def rate(self, i: Tensor, j: Tensor) -> Tensor:
        """c_ij of the last window."""
        return self.rates[i, j]

    def before(self, i: Tensor, j: Tensor) -> Tensor:
        """Return the running average as it was before the last closed window."""
        return self.reference[i, j]

    def average(self, i: Tensor, j: Tensor) -> Tensor:
        """c̄_ij with the last window folded in."""
        return self.averages[i, j]

    def token_rates(self, tokens: Int[Tensor, " M"]) -> Float[Tensor, "M K K"]:
        """c_ij of the pairs active in some tokens of the window; 0 where i = j."""
        assert self.last_window is not None
        rows = self.last_window[tokens].long()
        i, j = torch.broadcast_tensors(rows[:, :, None], rows[:, None, :])
        counted = (i >= 0) & (j >= 0) & (i != j)
        return self.rates[i.clamp(min=0), j.clamp(min=0)] * counted

    def row_block(self, what: str, lo: int, hi: int) -> Float[Tensor, "rows F"]:
        """`rate`, `before` or `average` of some rows, 0 where j <= i."""
        matrix = {"rate": self.rates, "before": self.reference, "average": self.averages}[what]
        return matrix[lo:hi].triu(lo + 1)

    def rate_sum(self) -> Float[Tensor, ""]:
        """Σ_{i<j} c, float64."""
        return upper_sum(self.rates)

    def instability_sum(self) -> Float[Tensor, ""]:
        """Σ_{i<j} c s, float64."""
        return upper_sum(self.rates * instability(self.rates, self.reference))

    def average_sum(self) -> Float[Tensor, ""]:
        """Σ_{i<j} c̄, float64."""
        return upper_sum(self.averages)

    def at_least(self, min_rate: float) -> tuple[Tensor, Tensor]:
        """i < j of the pairs whose rate, in the last window or on average before, is that high."""
        high = torch.maximum(self.rates, self.reference) >= min_rate
        i, j = high.triu(1).nonzero(as_tuple=True)
        return i, j

    def histogram(self) -> Int[Tensor, " W+1"]:
        """Count the pairs that have each count from 1 on in the last window; entry 0 is 0."""
        assert self.last_window is not None
        counts = (self.rates.triu(1) * self.last_window.shape[0]).round().long().flatten()
        return torch.bincount(counts[counts > 0], minlength=self.last_window.shape[0] + 1)

    def nbytes(self) -> int:
        """Bytes held."""
        distinct = {m.data_ptr(): m.nbytes for m in (self.rates, self.reference, self.averages)}
        return sum(distinct.values())

    def state_dict(self) -> dict[str, Any]:
        """Return the averages before the last window, as a packed triangle."""
        before = torch.zeros_like(self.averages) if self.number <= 1 else self.reference
        i, j = torch.triu_indices(self.n_latents, self.n_latents, 1, device=self.device)
        return {"averages": before[i, j], "lo": 0, "hi": self.n_latents}

    def load_state_dict(self, state: dict[str, Any], rows: Tensor | None, number: int) -> None:
        """Restore, folding the last window in again."""
        check_rows(state, 0, self.n_latents)
        before = torch.zeros(self.n_latents, self.n_latents, device=self.device)
        for i, j, values in saved_pairs(state, self.n_latents):
            before[i.to(self.device), j.to(self.device)] = values.to(self.device)
        before += before.T.clone()
        self.reference = self.averages = before
        self.rates, self.last_window, self.number = torch.zeros_like(before), None, number
        if rows is not None:
            self._compare(rows, number, before)
