"""The step size of a pair's running average (step 5 of the method)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from temporal_sae.errors import check_choice, check_number
from temporal_sae.kernels.averages import CONST, PAIR, UNION, AlphaStep

SOURCES = {"pair": PAIR, "union": UNION, "const": CONST}


@dataclass(frozen=True)
class AlphaRule:
    """α of every pair in every window, from the options of the tracker.

    `pair`: min(cap, n_ij / scale); `union`: min(cap, (n_ii + n_jj - n_ij) / scale);
    `const`: max(1/m, floor) in window m, for every pair alike. With `init: first` the first window
    is taken over as it is.

    Raises:
        InvalidOption: an option is out of range.
    """

    source: str
    cap: float
    scale: float
    floor: float
    init: str

    def __post_init__(self) -> None:
        check_choice("alpha_source", self.source, tuple(SOURCES))
        check_number("alpha_cap", self.cap, maximum=1.0, above=True)
        check_number("alpha_scale", self.scale, above=True)
        check_number("alpha_floor", self.floor, maximum=1.0)
        check_choice("init", self.init, ("first", "zero"))

    def takes_over(self, window: int) -> bool:
        """Return whether the averages become the rates of this window (the first is number 1)."""
        return window == 1 and self.init == "first"

    def step(self, window: int) -> AlphaStep:
        """Return the rule of one window, where min(1, n / 1) is 1 for all that occurred."""
        if self.takes_over(window):
            return AlphaStep(PAIR, 1.0, 1.0)
        cap = max(1 / window, self.floor) if self.source == "const" else self.cap
        return AlphaStep(SOURCES[self.source], cap, self.scale)


def divide(numbers: Tensor, by: float) -> Tensor:
    """numbers / by in float32, rounded as IEEE says on every device.

    By a Python number, CUDA would multiply by the reciprocal, which may differ in the last bit.
    """
    return numbers / torch.full((), by, dtype=torch.float32, device=numbers.device)


def moved(
    step: AlphaStep,
    average: Tensor,
    counts: Tensor,
    n_tokens: int,
    own: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """c̄ + α (c - c̄), each operation rounded on its own as the kernels do it.

    Args:
        counts: n_ij in a window of `n_tokens`.
        own: n_ii and n_jj, needed for UNION.
    """
    if step.source == CONST:
        alpha = torch.full_like(average, step.cap)
    else:
        events = counts
        if step.source == UNION:
            assert own is not None
            events = own[0] + own[1] - counts
        alpha = divide(events, step.scale).clamp(max=step.cap)
    return average + alpha * (divide(counts, n_tokens) - average)
