"""Statistics of pairs for a weighting: the last window, running averages, and totals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from temporal_sae.tracker.moments import mean_and_variance


@dataclass(frozen=True)
class LongCounts:
    """Totals of some pairs, int64.

    Attributes:
        i, j: their latents.
        n: n_ij, tokens in which both were active, of the shape of i and j.
        squares: Σ over windows of the square of their count in it.
        own: n_i of all latents [F].
        n_tokens: N.
        n_windows: of which they are.
    """

    i: Tensor
    j: Tensor
    n: Tensor
    squares: Tensor
    own: Tensor
    n_tokens: int
    n_windows: int


def instability(rate: Tensor, before: Tensor) -> Tensor:
    """Return s = |c - c̄| / max(c, c̄), in [0, 1], 0 where both are 0; a new tensor."""
    larger = torch.maximum(rate, before).clamp_(min=torch.finfo(rate.dtype).tiny)
    return (rate - before).abs_().div_(larger)


class PairStatistics:
    """Statistics of some pairs, as tensors of one shape; each is computed when first asked for.

    Those from totals are float64, and take `tracker.totals_from`; see `Weighting.totals_windows`.

    Args:
        read: gives `rate`, `before`, `average` or `totals` of these pairs by name.
    """

    def __init__(self, read: Callable[[str], Any]) -> None:
        self._read = read

    @cached_property
    def rate(self) -> Tensor:
        """c, the share of the last closed window's tokens in which both latents are active."""
        return self._tensor("rate")

    @cached_property
    def before(self) -> Tensor:
        """c̄ as it was before that window."""
        return self._tensor("before")

    @cached_property
    def average(self) -> Tensor:
        """c̄ with that window folded in."""
        return self._tensor("average")

    def _tensor(self, name: str) -> Tensor:
        found: Tensor = self._read(name)
        return found

    @property
    def instability(self) -> Tensor:
        """s, the distance between c and the c̄ before the window, in [0, 1]."""
        return instability(self.rate, self.before)

    @cached_property
    def totals(self) -> LongCounts:
        """Counts in all windows of the totals."""
        found: LongCounts = self._read("totals")
        return found

    @cached_property
    def long_rate(self) -> Tensor:
        """c_long = n_ij / N, the share of the totals' tokens in which both latents are active."""
        return self.totals.n.double() / self.totals.n_tokens

    @cached_property
    def independent_rate(self) -> Tensor:
        """p_i p_j, which c_long would be if the two did not know of each other; p_i = n_i / N."""
        totals = self.totals
        density = totals.own.double() / totals.n_tokens
        return density[totals.i.long()] * density[totals.j.long()]

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        totals = self.totals
        return mean_and_variance(totals.n.double(), totals.squares.double(), totals.n_windows)

    @property
    def mean(self) -> Tensor:
        """μ, the mean of the pair's count in a window."""
        return self._moments[0]

    @property
    def variance(self) -> Tensor:
        """V, the variance of that count, unbiased; it takes two windows."""
        return self._moments[1]

    @cached_property
    def overdispersion(self) -> Tensor:
        """D = max(0, (V - μ) / μ²), of a gamma-Poisson count: V = μ + D μ²; 0 where μ is 0."""
        tiny = torch.finfo(self.mean.dtype).tiny  # only where the numerator is 0 too
        return (self.variance - self.mean).clamp_(min=0).div_(self.mean.square().clamp_(min=tiny))
