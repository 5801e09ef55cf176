"""From the rates of a pair to the weight of its penalty: the formulas of the method."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Weighting = Literal["instability", "none", "stability", "only", "average"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)


def instability(rate: Tensor, reference: Tensor) -> Tensor:
    """s = |c - ref| / max(c, ref), in [0, 1], and 0 where both are 0. Any shape."""
    larger = torch.maximum(rate, reference)
    return torch.where(larger > 0, (rate - reference).abs() / larger, 0.0)


def pair_weight(weighting: str, rate: Tensor, reference: Tensor, average: Tensor) -> Tensor:
    """w of pairs with co-activation rate c, the average before the window, and the one after it.

    `instability` c(1 + s) · `none` c · `stability` c(2 - s) · `only` c s · `average` c̄.
    All tensors have one shape.
    """
    if weighting == "average":
        return average
    if weighting == "none":
        return rate
    return rate * weight_factor(weighting, rate, reference)


def weight_factor(weighting: str, rate: Tensor, reference: Tensor) -> Tensor:
    """w / c, the factor by which a weighting departs from plain co-activation."""
    if weighting == "none":
        return torch.ones_like(rate)
    s = instability(rate, reference)
    return {"instability": 1 + s, "stability": 2 - s, "only": s}[weighting]
