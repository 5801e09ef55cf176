"""From the rates of a pair to the weight of its penalty: the formulas of the method."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Weighting = Literal["instability", "none", "stability", "only", "average"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)


def instability(rate: Tensor, reference: Tensor) -> Tensor:
    """s = |c - ref| / max(c, ref), in [0, 1], and 0 where both are 0. Any shape; a new tensor."""
    larger = torch.maximum(rate, reference).clamp_(min=torch.finfo(rate.dtype).tiny)
    return (rate - reference).abs_().div_(larger)


def pair_weight(weighting: str, rate: Tensor, reference: Tensor) -> Tensor:
    """w of pairs with co-activation rate c and the running average before the window.

    `instability` c(1 + s) · `none` c · `stability` c(2 - s) · `only` c s. (`average` is c̄ itself.)
    All tensors have one shape; the result is a new one.
    """
    return weight_factor(weighting, rate, reference).mul_(rate)


def weight_factor(weighting: str, rate: Tensor, reference: Tensor) -> Tensor:
    """w / c, the factor by which a weighting departs from plain co-activation; a new tensor."""
    if weighting == "none":
        return torch.ones_like(rate)
    s = instability(rate, reference)
    if weighting == "instability":
        return s.add_(1)
    return s.neg_().add_(2) if weighting == "stability" else s
