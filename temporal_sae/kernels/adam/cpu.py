"""Adam in numba, on torch's threads: one pass over the weights."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.kernels.adam.naive import EPSILON, AdamStep, Sleep
from temporal_sae.kernels.threads import as_array, compiled, on_threads

FAST = {"reassoc", "nsz", "contract"}


def squared_norm(
    weights: Float[Tensor, "rows n"], gradient: Float[Tensor, "rows n"], unit_rows: bool
) -> Float[Tensor, ""]:
    sums = np.empty(len(weights))
    on_threads(_squared_norms_loop, as_array(weights), as_array(gradient), unit_rows, sums)
    return torch.tensor(sums.sum()).clamp_(min=0)


def adam_(
    weights: Float[Tensor, "rows n"],
    gradient: Float[Tensor, "rows n"],
    mean: Float[Tensor, "rows n"],
    square: Float[Tensor, "rows n"],
    step: AdamStep,
    clip: Float[Tensor, ""],
    unit_rows: bool,
) -> None:
    if not bool(clip.isfinite()):
        return
    arrays = (as_array(t) for t in (weights, gradient, mean, square))
    on_threads(_adam_loop, *arrays, _numbers(step, clip), unit_rows)


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
    if not bool(clip.isfinite()):
        return
    arrays = (as_array(t) for t in (weights, gradient, mean, square))
    of_sleep = (as_array(sleep.places), as_array(sleep.awake_until), sleep.now, sleep.lasts)
    decays = (step.beta1, step.beta2)
    on_threads(_adam_rows_loop, *arrays, _numbers(step, clip), unit_rows, *of_sleep, *decays)


def _numbers(step: AdamStep, clip: Float[Tensor, ""]) -> np.ndarray:
    """Return what the loops need of a step."""
    numbers = (
        float(clip),
        step.lr / step.correction1,
        1 - step.beta1,
        step.beta2,
        1 - step.beta2,
        step.eps,
        step.correction2**0.5,
        EPSILON,
    )
    return np.array(numbers, np.float32)


@compiled(fastmath=FAST)
def _squared_norms_loop(part, parts, weights, gradient, unit_rows, sums):
    """Write Σ g² of each row, less its part along the weights."""
    for r in range(part * sums.size // parts, (part + 1) * sums.size // parts):
        total = along = np.float64(0)
        for j in range(weights.shape[1]):
            g = np.float64(gradient[r, j])
            total += g * g
            along += g * weights[r, j]
        sums[r] = total - along * along if unit_rows else total


@compiled(fastmath=FAST)
def _adam_loop(part, parts, weights, gradient, mean, square, numbers, unit_rows):
    for r in range(part * len(weights) // parts, (part + 1) * len(weights) // parts):
        _move_row(weights[r], gradient[r], mean[r], square[r], numbers, unit_rows)


@compiled(fastmath=FAST)
def _adam_rows_loop(
    part,
    parts,
    weights,
    gradient,
    mean,
    square,
    numbers,
    unit_rows,
    places,
    awake_until,
    now,
    lasts,
    beta1,
    beta2,
):
    nothing = np.zeros(weights.shape[1], weights.dtype)
    for r in range(part, len(weights), parts):
        has_gradient = places[r] >= 0
        if not has_gradient and awake_until[r] < now:
            continue
        missed = now - 1 - awake_until[r]
        if missed > 0:
            mean[r] *= weights.dtype.type(beta1**missed)
            square[r] *= weights.dtype.type(beta2**missed)
        g = gradient[places[r]] if has_gradient else nothing
        _move_row(weights[r], g, mean[r], square[r], numbers, unit_rows)
        if has_gradient:
            awake_until[r] = now + lasts


@compiled(fastmath=FAST)
def _move_row(w, g, m, v, numbers, unit_rows):
    # It stays in the first-level cache while it is worked on.
    clip, rate, move1, keep2, move2, eps, root2, epsilon = numbers
    along = _dot(g, w) if unit_rows else w.dtype.type(0)
    for j in range(w.size):
        x = (g[j] - along * w[j]) * clip
        m[j] += move1 * (x - m[j])
        v[j] = keep2 * v[j] + move2 * x * x
        w[j] -= rate * m[j] / (np.sqrt(v[j]) / root2 + eps)
    if unit_rows:
        length = max(np.sqrt(_dot(w, w)), epsilon)
        for j in range(w.size):
            w[j] /= length


@compiled(fastmath=FAST)
def _dot(a, b):
    total = a.dtype.type(0)
    for j in range(a.size):
        total += a[j] * b[j]
    return total
