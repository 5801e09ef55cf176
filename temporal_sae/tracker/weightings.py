"""Weightings: from the rates of a pair to the weight of its orthogonality penalty.

A weighting is a function of what a tracker knows of some pairs, in plain torch. It announces itself
by `@weighting()`, and `loss.weighting` takes its name; nothing else has to know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from temporal_sae.errors import InvalidOption, check_choice
from temporal_sae.registry import components
from temporal_sae.tracker.statistics import PairStatistics


class WindowSums(Protocol):
    """Sums over i < j, float64, that a tracker has at hand without a pass."""

    def rate_sum(self) -> Tensor: ...  # Σ c of the last window
    def instability_sum(self) -> Tensor: ...  # Σ c s, a by-product of closing the window
    def average_sum(self) -> Tensor: ...  # Σ c̄
    def long_rate_sum(self) -> Tensor: ...  # Σ c_long; of a sample of window pairs Σ c


class Densities(Protocol):
    """Totals of latents by themselves."""

    def density(self) -> Tensor: ...  # p = n / N, float64 [F]


@dataclass(frozen=True)
class Weighting:
    """A weighting with what trackers and penalties need to know of it.

    Attributes:
        function: w of some pairs, or w / c where `relative`.
        relative: the weight is c times what `function` returns, so that only pairs of the window
            have one; Σ w g can then be summed over the window's tokens, or over a sample of them.
            With totals it is c_long times that, and a sample of the window's tokens stands for the
            pairs that are in it.
        needs_tracker: False where all pairs weigh the same, whatever fires.
        total: what the weights are divided by, over i < j, from the sums at hand; None for Σ w,
            from a pass over all pairs, once per window.
        totals_windows: windows that the tracker's totals have to hold before there is a weight; 0
            where it does not come from totals.
        factor: u, float64 [F], of a weight u_i u_j: Σ w cos² then needs no pairs.
    """

    function: Callable[[PairStatistics], Tensor]
    relative: bool = False
    needs_tracker: bool = True
    total: Callable[[WindowSums], Tensor] | None = None
    totals_windows: int = 0
    factor: Callable[[Densities], Tensor] | None = None

    def weight(self, pairs: PairStatistics) -> Tensor:
        """Return w."""
        value = self.function(pairs)
        if not self.relative:
            return value
        return value * (pairs.long_rate if self.totals_windows else pairs.rate)


_announced: dict[str, Weighting] = {}
Function = Callable[[PairStatistics], Tensor]


def weighting(
    name: str,
    *,
    relative: bool = False,
    needs_tracker: bool = True,
    total: Callable[[WindowSums], Tensor] | None = None,
    totals_windows: int = 0,
    factor: Callable[[Densities], Tensor] | None = None,
) -> Callable[[Function], Function]:
    """Announce a function as the weighting of that name; the other arguments: see `Weighting`."""

    def announce(function: Function) -> Function:
        _announced[name] = Weighting(
            function, relative, needs_tracker, total, totals_windows, factor
        )
        return function

    return announce


def all_weightings() -> Mapping[str, Weighting]:
    """Return all weightings by name, those of imported plug-ins among them."""
    _import_room()
    return _announced


@cache
def _import_room() -> None:
    components("tracker")


def find_weighting(name: str) -> Weighting:
    """Return the weighting of that name.

    Raises:
        InvalidOption: there is none.
    """
    return all_weightings()[check_choice("weighting", name, tuple(all_weightings()))]


def check_totals(name: str, totals_from: int | None) -> None:
    """Refuse a weighting whose counts the tracker does not keep.

    Raises:
        InvalidOption: it takes totals, and there is no `totals_from`; or there is none of the name.
    """
    if find_weighting(name).totals_windows and totals_from is None:
        allowed = "used with tracker.totals_from=TOKENS, whose counts it takes"
        raise InvalidOption("weighting", name, allowed)


@weighting(
    "instability", relative=True, total=lambda sums: sums.rate_sum() + sums.instability_sum()
)
def _instability(pairs: PairStatistics) -> Tensor:
    """w = c (1 + s): more where co-activation has changed."""
    return 1 + pairs.instability


@weighting("co_activation", relative=True, total=lambda sums: sums.rate_sum())
def _co_activation(pairs: PairStatistics) -> Tensor:
    """w = c."""
    return torch.ones_like(pairs.rate)


@weighting(
    "stability", relative=True, total=lambda sums: 2 * sums.rate_sum() - sums.instability_sum()
)
def _stability(pairs: PairStatistics) -> Tensor:
    """w = c (2 - s): more where co-activation is as before."""
    return 2 - pairs.instability


@weighting("instability_only", relative=True, total=lambda sums: sums.instability_sum())
def _instability_only(pairs: PairStatistics) -> Tensor:
    """w = c s."""
    return pairs.instability


@weighting("long_average", total=lambda sums: sums.average_sum())
def _long_average(pairs: PairStatistics) -> Tensor:
    """w = c̄: a long memory, best with `tracker.alpha_source=const`."""
    return pairs.average


@weighting("uniform", needs_tracker=False)
def _uniform(pairs: PairStatistics) -> Tensor:
    """w = 1: every pair alike, the control for all others."""
    return torch.ones_like(pairs.rate)
