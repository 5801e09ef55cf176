"""Adam in plain torch: the meaning of the operations of this group."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

EPSILON = 1e-12  # the least norm that a decoder row is divided by


class AdamStep(NamedTuple):
    """The numbers of one step of Adam (Kingma & Ba 2015, arXiv 1412.6980).

    `correction1` and `correction2` are 1 - β^t.
    """

    lr: float
    beta1: float
    beta2: float
    eps: float
    correction1: float
    correction2: float


class Sleep(NamedTuple):
    """The rows that a step leaves out: those without a gradient for long.

    Attributes:
        places: of each row in the gradient; -1 where it has none.
        awake_until: the last step in which each row moves without one; changes in place.
        now: number of this step, from 1.
        lasts: steps that a row moves on after one with a gradient.
    """

    places: Int[Tensor, " rows"]
    awake_until: Int[Tensor, " rows"]
    now: int
    lasts: int


def squared_norm(
    weights: Float[Tensor, "rows n"], gradient: Float[Tensor, "rows n"], unit_rows: bool
) -> Float[Tensor, ""]:
    """Return Σ g²; with `unit_rows` without the part of each row along its weights."""
    total = gradient.square().sum(dtype=torch.float64)
    if unit_rows:
        along = (gradient * weights).sum(-1, dtype=torch.float64)
        total = (total - along.square().sum()).clamp(min=0)
    return total


def adam_(
    weights: Float[Tensor, "rows n"],
    gradient: Float[Tensor, "rows n"],
    mean: Float[Tensor, "rows n"],
    square: Float[Tensor, "rows n"],
    step: AdamStep,
    clip: Float[Tensor, ""],
    unit_rows: bool,
) -> None:
    """Project, clip, Adam, renormalise; `weights`, `mean` and `square` change in place.

    Args:
        clip: factor of the gradient. If it is not finite nothing changes at all.
        unit_rows: take each row's gradient at right angles to the row, and give the row unit
            length afterwards.
    """
    kept = clip.isfinite()
    if unit_rows:
        along = (gradient * weights).sum(-1, keepdim=True)
        gradient = gradient - along * weights
    gradient = gradient * clip
    new_mean = mean + (1 - step.beta1) * (gradient - mean)
    new_square = step.beta2 * square + (1 - step.beta2) * gradient * gradient
    scale = (new_square.sqrt() / step.correction2**0.5).add_(step.eps)
    new_weights = weights - step.lr / step.correction1 * new_mean / scale
    if unit_rows:
        new_weights = new_weights / new_weights.norm(dim=-1, keepdim=True).clamp(min=EPSILON)
    for old, new in ((weights, new_weights), (mean, new_mean), (square, new_square)):
        old.copy_(torch.where(kept, new, old))


def adam_rows_(
    weights: Float[Tensor, "rows n"],
    gradient: Float[Tensor, "some n"],
    mean: Float[Tensor, "rows n"],
    square: Float[Tensor, "rows n"],
    step: AdamStep,
    clip: Float[Tensor, ""],
    unit_rows: bool,
    sleep: Sleep,
) -> None:
    """Do the same with a gradient that is 0 but for some rows; those asleep stay as they are.

    A row without a gradient moves by its averages alone. One asleep does not, and when it wakes the
    averages decay by all the steps that it has missed.
    """
    if not clip.isfinite():
        return
    has_gradient = sleep.places >= 0
    rows = (has_gradient | (sleep.awake_until >= sleep.now)).nonzero()[:, 0]
    missed = (sleep.now - 1 - sleep.awake_until[rows]).clamp(min=0)[:, None]
    w, m, v = weights[rows], mean[rows], square[rows]
    m *= torch.as_tensor(step.beta1, dtype=torch.float64) ** missed
    v *= torch.as_tensor(step.beta2, dtype=torch.float64) ** missed
    g, places = torch.zeros_like(w), sleep.places[rows]
    g[places >= 0] = gradient[places[places >= 0]]
    adam_(w, g, m, v, step, clip, unit_rows)
    weights[rows], mean[rows], square[rows] = w, m, v
    sleep.awake_until[has_gradient] = sleep.now + sleep.lasts
