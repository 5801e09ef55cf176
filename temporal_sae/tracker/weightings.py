"""Weightings: from the rates of a pair to the weight of its orthogonality penalty.

A weighting is a function of what a tracker knows of some pairs, in plain torch. It announces itself
by `@weighting()`, and `loss.weighting` takes its name; nothing else has to know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from temporal_sae.errors import check_choice
from temporal_sae.registry import components


def instability(rate: Tensor, before: Tensor) -> Tensor:
    """Return s = |c - c̄| / max(c, c̄), in [0, 1], 0 where both are 0; a new tensor."""
    larger = torch.maximum(rate, before).clamp_(min=torch.finfo(rate.dtype).tiny)
    return (rate - before).abs_().div_(larger)


class PairStatistics:
    """Statistics of some pairs, as tensors of one shape; each is computed when first asked for.

    Args:
        read: gives `rate`, `before` or `average` of these pairs by name.
    """

    def __init__(self, read: Callable[[str], Tensor]) -> None:
        self._read = read

    @cached_property
    def rate(self) -> Tensor:
        """c, the share of the last closed window's tokens in which both latents are active."""
        return self._read("rate")

    @cached_property
    def before(self) -> Tensor:
        """c̄ as it was before that window."""
        return self._read("before")

    @cached_property
    def average(self) -> Tensor:
        """c̄ with that window folded in."""
        return self._read("average")

    @property
    def instability(self) -> Tensor:
        """s, the distance between c and the c̄ before the window, in [0, 1]."""
        return instability(self.rate, self.before)


class WindowSums(Protocol):
    """Sums over i < j of a closed window, float64, that a tracker has at hand without a pass."""

    def rate_sum(self) -> Tensor: ...  # Σ c
    def instability_sum(self) -> Tensor: ...  # Σ c s, a by-product of closing the window
    def average_sum(self) -> Tensor: ...  # Σ c̄


@dataclass(frozen=True)
class Weighting:
    """A weighting with what trackers and penalties need to know of it.

    Attributes:
        function: w of some pairs, or w / c where `relative`.
        relative: the weight is c times what `function` returns, so that only pairs of the window
            have one; Σ w g can then be summed over the window's tokens, or over a sample of them.
        needs_tracker: False where all pairs weigh the same, whatever fires.
        total: Σ_{i<j} w from the sums at hand; None sums over all pairs, once per window.
    """

    function: Callable[[PairStatistics], Tensor]
    relative: bool = False
    needs_tracker: bool = True
    total: Callable[[WindowSums], Tensor] | None = None

    def weight(self, pairs: PairStatistics) -> Tensor:
        """Return w."""
        value = self.function(pairs)
        return value * pairs.rate if self.relative else value


_announced: dict[str, Weighting] = {}
Function = Callable[[PairStatistics], Tensor]


def weighting(
    name: str,
    *,
    relative: bool = False,
    needs_tracker: bool = True,
    total: Callable[[WindowSums], Tensor] | None = None,
) -> Callable[[Function], Function]:
    """Announce a function as the weighting of that name; the other arguments: see `Weighting`."""

    def announce(function: Function) -> Function:
        _announced[name] = Weighting(function, relative, needs_tracker, total)
        return function

    return announce


def all_weightings() -> Mapping[str, Weighting]:
    """Return all weightings by name, those of imported plug-ins among them."""
    components("tracker")  # imports the modules of this room
    return _announced


def find_weighting(name: str) -> Weighting:
    """Return the weighting of that name.

    Raises:
        InvalidOption: there is none.
    """
    return all_weightings()[check_choice("weighting", name, tuple(all_weightings()))]


@weighting(
    "instability", relative=True, total=lambda sums: sums.rate_sum() + sums.instability_sum()
)
def _instability(pairs: PairStatistics) -> Tensor:
    """w = c (1 + s): more where co-activation has changed; the default."""
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
