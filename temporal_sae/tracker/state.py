"""The tracker's state between two closings: one window, and averages that do not yet contain it.

A window is folded into the averages when the next one closes. Until then both its counts, which
are asked of its tokens, and the averages before it are at hand, so that no pair needs more than one
number; closing a window is a single pass over the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels.averages import CONST, UNION, AlphaStep
from temporal_sae.tracker.alpha import AlphaRule, divide, moved
from temporal_sae.tracker.window import Window

Term = Callable[[Tensor, Tensor, Tensor], Tensor]


class Averages(Protocol):
    """Running averages of pairs, however they are stored; see `dense` and `sparse`."""

    relabel: bool

    def close(self, previous: Window | None, step: AlphaStep, window: Window) -> Tensor: ...
    def lookup(self, i: Tensor, j: Tensor) -> Tensor: ...
    def row_block(self, lo: int, hi: int) -> Tensor: ...
    def at_least(self, bound: float) -> tuple[Tensor, Tensor]: ...
    def sum_over(self, term: Term) -> Tensor: ...
    def total(self) -> Tensor: ...
    def nbytes(self) -> int: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class PairState(Protocol):
    """Counts and averages of all pairs between two closings."""

    @property
    def last_window(self) -> Int[Tensor, "W K"] | None: ...
    def close(self, rows: Int[Tensor, "W K"], number: int) -> None: ...
    def closed(self) -> Window: ...
    def rate(self, i: Tensor, j: Tensor) -> Tensor: ...
    def before(self, i: Tensor, j: Tensor) -> Tensor: ...
    def average(self, i: Tensor, j: Tensor) -> Tensor: ...
    def token_rates(self, tokens: Int[Tensor, " M"]) -> Float[Tensor, "M K K"]: ...
    def row_block(self, what: str, lo: int, hi: int) -> Float[Tensor, "rows F"]: ...
    def rate_sum(self) -> Tensor: ...
    def instability_sum(self) -> Tensor: ...
    def average_sum(self) -> Tensor: ...
    def at_least(self, min_rate: float) -> tuple[Tensor, Tensor]: ...
    def histogram(self) -> Int[Tensor, " W+1"]: ...
    def nbytes(self) -> int: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], rows: Tensor | None, number: int) -> None: ...


class WindowedState:
    """The last closed window and the averages before it.

    Args:
        n_latents: F.
        alpha: the rule for α.
        averages: where c̄ is kept.
    """

    def __init__(self, n_latents: int, alpha: AlphaRule, averages: Averages) -> None:
        self.n_latents, self.alpha, self.averages = n_latents, alpha, averages
        self.window: Window | None = None
        self.number = 0
        self._instability_sum: Tensor | None = None

    @property
    def last_window(self) -> Int[Tensor, "W K"] | None:
        """Latents of the last closed window's tokens, ascending, -1 in empty slots."""
        return None if self.window is None else self.window.rows

    def close(self, rows: Int[Tensor, "W K"], number: int) -> None:
        """Take window number `number` (1, 2, …) and fold in the one before."""
        window = Window(rows, self.n_latents, self.averages.relabel)
        total = self.averages.close(self.window, self.alpha.step(max(1, self.number)), window)
        self.window, self.number = window, number
        self._instability_sum = torch.zeros_like(total) if self._takes_over() else total

    def _takes_over(self) -> bool:
        return self.alpha.takes_over(self.number)

    def closed(self) -> Window:
        """Return the last closed window."""
        assert self.window is not None, "no window has been closed"
        return self.window

    def rate(self, i: Tensor, j: Tensor) -> Tensor:
        """c_ij of the last window."""
        if self.window is None:
            return torch.zeros(i.shape, device=i.device)
        return divide(self.window.counts(i, j), self.window.n_tokens)

    def before(self, i: Tensor, j: Tensor) -> Tensor:
        """Return the running average as it was before the last closed window."""
        if self._takes_over():
            return torch.where(i == j, 0.0, self.rate(i, j))
        return self.averages.lookup(i, j)

    def average(self, i: Tensor, j: Tensor) -> Tensor:
        """c̄_ij with the last window folded in."""
        before = self.averages.lookup(i, j)
        if self.window is None:
            return before
        window, step = self.window, self.alpha.step(self.number)
        own = (window.counts(i, i), window.counts(j, j)) if step.source == UNION else None
        after = moved(step, before, window.counts(i, j), window.n_tokens, own)
        return torch.where(i == j, 0.0, after)

    def token_rates(self, tokens: Int[Tensor, " M"]) -> Float[Tensor, "M K K"]:
        """c_ij of the pairs active in some tokens of the window; 0 where i = j."""
        window = self.closed()
        return divide(window.token_counts(tokens), window.n_tokens)

    def row_block(self, what: str, lo: int, hi: int) -> Float[Tensor, "rows F"]:
        """`rate`, `before` or `average` of some rows, 0 where j <= i."""
        if what == "rate" or (what == "before" and self._takes_over()):
            return divide(self.closed().count_rows(lo, hi), self.closed().n_tokens)
        before = self.averages.row_block(lo, hi)
        return before if what == "before" else self._fold_block(before, lo, hi)

    def _fold_block(self, before: Tensor, lo: int, hi: int) -> Tensor:
        window, step = self.closed(), self.alpha.step(self.number)
        own = None
        if step.source == UNION:
            latents = torch.arange(self.n_latents, device=before.device)
            alone = window.counts(latents, latents)
            own = alone[lo:hi, None], alone[None, :]
        after = moved(step, before, window.count_rows(lo, hi), window.n_tokens, own)
        return after.triu_(lo + 1)

    def rate_sum(self) -> Float[Tensor, ""]:
        """Σ_{i<j} c, float64."""
        return self.closed().total().double() / self.closed().n_tokens

    def instability_sum(self) -> Float[Tensor, ""]:
        """Σ_{i<j} c s, float64; a by-product of the closing."""
        assert self._instability_sum is not None
        return self._instability_sum

    def average_sum(self) -> Float[Tensor, ""]:
        """Σ_{i<j} c̄, float64: of the averages before, and of what the window changes in them."""
        step, total = self.alpha.step(self.number), self.averages.total()
        if step.source == CONST:
            return total + step.cap * (self.rate_sum() - total)
        if step.source == UNION:
            return self._union_sum(step)
        for i, j, n in self.closed().pairs():
            before = self.averages.lookup(i, j)
            after = moved(step, before, n, self.closed().n_tokens)
            total = total + (after.double() - before).sum()
        return total

    def _union_sum(self, step: AlphaStep) -> Tensor:
        """With UNION every stored pair moves, and the window's pairs that are not stored yet."""
        window = self.closed()

        def after(i: Tensor, j: Tensor, before: Tensor) -> Tensor:
            own = window.counts(i, i), window.counts(j, j)
            return moved(step, before, window.counts(i, j), window.n_tokens, own)

        total = self.averages.sum_over(lambda i, j, before: after(i, j, before) * (before > 0))
        for i, j, _ in window.pairs():
            before = self.averages.lookup(i, j)
            total = total + (after(i, j, before) * (before == 0)).sum(dtype=torch.float64)
        return total

    def at_least(self, min_rate: float) -> tuple[Tensor, Tensor]:
        """i < j of the pairs whose rate, in the last window or on average before, is that high."""
        window = self.closed()
        least = max(1, math.ceil(min_rate * window.n_tokens - 1e-6))
        found = [(i.long() * self.n_latents + j) * (n > 0) for i, j, n in window.pairs(least)]
        if not self._takes_over():
            i, j = self.averages.at_least(min_rate)
            found.append(i * self.n_latents + j)
        keys = torch.cat(found).unique()
        keys = keys[keys > 0]  # key 0 would be the pair (0, 0)
        return keys // self.n_latents, keys % self.n_latents

    def histogram(self) -> Int[Tensor, " W+1"]:
        """Count the pairs that have each count from 1 on in the last window; entry 0 is 0."""
        return self.closed().histogram()

    def nbytes(self) -> int:
        """Bytes held."""
        return self.averages.nbytes() + (0 if self.window is None else self.window.nbytes())

    def state_dict(self) -> dict[str, Any]:
        """Return the averages before the last window."""
        return self.averages.state_dict()

    def load_state_dict(self, state: dict[str, Any], rows: Tensor | None, number: int) -> None:
        """Restore, and compare the last window again."""
        self.averages.load_state_dict(state)
        self.window, self.number = None, 0
        if rows is not None:
            self.close(rows, number)
