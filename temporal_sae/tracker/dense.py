"""Running averages of all pairs as one packed triangle: 2 F² bytes, the fastest where it fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.kernels import averages
from temporal_sae.kernels.averages import AlphaStep, pairs_before
from temporal_sae.tracker.saved import check_rows, pairs_at, saved_pairs
from temporal_sae.tracker.window import Window

PAIRS_AT_ONCE = 2**24


class DenseAverages:
    """c̄ of the pairs i < j with lo <= i < hi, float32, row after row.

    Args:
        n_latents: F.
        device: where they live.
        rows: lo and hi; all rows by default.
    """

    relabel = False

    def __init__(
        self, n_latents: int, device: torch.device, rows: tuple[int, int] | None = None
    ) -> None:
        self.n_latents = n_latents
        self.lo, self.hi = rows or (0, n_latents)
        self.values = torch.zeros(self._start(self.hi), device=device)

    def _start(self, row: int) -> int:
        """Return the place at which the pairs of a row start."""
        return pairs_before(self.n_latents, row) - pairs_before(self.n_latents, self.lo)

    def close(self, previous: Window | None, step: AlphaStep, window: Window) -> Tensor:
        """Fold in the window before, and compare with this one: Σ_{i<j} c s, float64."""
        before = None if previous is None else previous.index
        return averages.close_dense(self.values, self.lo, self.hi, before, step, window.index)

    def lookup(self, i: Tensor, j: Tensor) -> Float[Tensor, "*n"]:
        """c̄_ij in any order of i and j; 0 where i = j, and for rows that are not held."""
        return averages.lookup_dense(self.values, self.n_latents, self.lo, self.hi, i, j)

    def _place(self, i: Tensor, j: Tensor) -> Tensor:
        return i * self.n_latents - i * (i + 1) // 2 - i - 1 + j - self._offset()

    def _offset(self) -> int:
        return pairs_before(self.n_latents, self.lo)

    def row_block(self, lo: int, hi: int) -> Float[Tensor, "rows F"]:
        """c̄ of some rows, 0 where j <= i."""
        block = torch.zeros(hi - lo, self.n_latents, device=self.values.device)
        for i in range(max(lo, self.lo), min(hi, self.hi)):
            block[i - lo, i + 1 :] = self.values[self._start(i) : self._start(i + 1)]
        return block

    def at_least(self, bound: float) -> tuple[Tensor, Tensor]:
        """i < j, int64, of the pairs whose average is that high (bound > 0)."""
        found = [
            (part >= bound).nonzero().squeeze(1) + n * PAIRS_AT_ONCE
            for n, part in enumerate(self.values.split(PAIRS_AT_ONCE))
        ]
        return pairs_at(torch.cat(found), self.n_latents, self.lo, self.hi)

    def sum_over(self, term: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Σ term(i, j, c̄), float64, over the pairs i < j that have an average."""
        total = torch.zeros((), dtype=torch.float64, device=self.values.device)
        for i, j, values in saved_pairs(self.state_dict(), self.n_latents):
            total += term(i, j, values).sum(dtype=torch.float64)
        return total

    def total(self) -> Float[Tensor, ""]:
        """Σ_{i<j} c̄, float64."""
        return self.values.sum(dtype=torch.float64)

    def nbytes(self) -> int:
        """Bytes held."""
        return self.values.nbytes

    def store(self, i: Tensor, j: Tensor, values: Tensor) -> None:
        """Set some averages, i < j; pairs of rows that are not held are passed over."""
        held = (i >= self.lo) & (i < self.hi)
        self.values[self._place(i[held].long(), j[held].long())] = values[held]

    def state_dict(self) -> dict[str, Any]:
        """Return the packed triangle."""
        return {"averages": self.values, "lo": self.lo, "hi": self.hi}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore, from the state of any storage that holds these rows."""
        check_rows(state, self.lo, self.hi)
        if "keys" in state:
            self.values.zero_()
            for i, j, values in saved_pairs(state, self.n_latents):
                device = self.values.device
                self.store(i.to(device), j.to(device), values.to(device))
            return
        first = self._offset() - pairs_before(self.n_latents, state["lo"])
        self.values.copy_(state["averages"][first : first + len(self.values)])
