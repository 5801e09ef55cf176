"""The Triton kernels behind `cuda_step`: what a sparse training step gathers, sums and moves.

Weights, gradients and tokens are read as they are stored and added up as float32. Tiles are a few
slots by a part of the width, kept apart until the end: many rows are on their way at once, and one
reduction is enough. No sum is made with atomics, so every one repeats to the bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from temporal_sae.kernels import plain_step

EPSILON = tl.constexpr(plain_step.EPSILON)
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _rows(matrix, row, wanted, column, d):
    """Some columns of some rows, 0 where none is wanted."""
    places = matrix + row.to(tl.int64)[:, None] * d + column[None, :]
    inside = wanted[:, None] & (column < d)[None, :]
    return tl.load(places, mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["n_slots"])
def decode_rows(
    out, values, indices, weights, n_slots, d, SLOTS: tl.constexpr, BLOCK: tl.constexpr
):
    """A part of the width of one token: its latents' rows, weighted and added."""
    parts = tl.cdiv(d, BLOCK)
    token = (tl.program_id(0) // parts).to(tl.int64)
    column = tl.program_id(0) % parts * BLOCK + tl.arange(0, BLOCK)
    total = tl.full((SLOTS, BLOCK), 0.0, tl.float32)
    for first in range(0, n_slots, SLOTS):
        slot = first + tl.arange(0, SLOTS)
        at = token * n_slots + slot
        latent = tl.load(indices + at, mask=slot < n_slots, other=-1)
        value = tl.load(values + at, mask=latent >= 0, other=0.0).to(tl.float32)
        total += value[:, None] * _rows(weights, latent, latent >= 0, column, d)
    tl.store(out + token * d + column, tl.sum(total, 0), mask=column < d)


@triton.jit(do_not_specialize=["n_slots"])
def dot_rows(out, gradient, indices, weights, n_slots, d, SLOTS: tl.constexpr, BLOCK: tl.constexpr):
    """Some slots of one token: the token's gradient times the rows of their latents."""
    parts = tl.cdiv(n_slots, SLOTS)
    token = (tl.program_id(0) // parts).to(tl.int64)
    slot = tl.program_id(0) % parts * SLOTS + tl.arange(0, SLOTS)
    at = token * n_slots + slot
    latent = tl.load(indices + at, mask=slot < n_slots, other=-1)
    total = tl.full((SLOTS, BLOCK), 0.0, tl.float32)
    for first in range(0, d, BLOCK):
        column = first + tl.arange(0, BLOCK)
        slope = tl.load(gradient + token * d + column, mask=column < d, other=0.0).to(tl.float32)
        total += slope[None, :] * _rows(weights, latent, latent >= 0, column, d)
    tl.store(out + at, tl.where(latent >= 0, tl.sum(total, 1), 0.0), mask=slot < n_slots)


@triton.jit(do_not_specialize=["n_slots"])
def sum_by_latent(
    out, starts, slots, values, tokens, n_slots, d, SLOTS: tl.constexpr, BLOCK: tl.constexpr
):
    """A part of the width of one latent: the tokens that are about it, weighted and added."""
    parts = tl.cdiv(d, BLOCK)
    latent = (tl.program_id(0) // parts).to(tl.int64)
    column = tl.program_id(0) % parts * BLOCK + tl.arange(0, BLOCK)
    end = tl.load(starts + latent + 1)
    total = tl.full((SLOTS, BLOCK), 0.0, tl.float32)
    for first in range(tl.load(starts + latent), end, SLOTS):
        at = first + tl.arange(0, SLOTS)
        # Dividing 32 bits is much the faster, and there are never more slots than they count.
        slot = tl.load(slots + at, mask=at < end, other=0).to(tl.int32)
        value = tl.load(values + slot, mask=at < end, other=0.0).to(tl.float32)
        total += value[:, None] * _rows(tokens, slot // n_slots, at < end, column, d)
    tl.store(out + latent * d + column, tl.sum(total, 0), mask=column < d)


@triton.jit
def square_sums(sums, gradient, size, BLOCK: tl.constexpr):
    """Σ g² of a block of entries."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    slope = tl.load(gradient + at, mask=at < size, other=0.0).to(tl.float32)
    tl.store(sums + tl.program_id(0), tl.sum(slope * slope, 0))


@triton.jit
def _across(slope, weight):
    """A row's gradient without its part along the row."""
    return slope - tl.sum(slope * weight, 0) * weight


@triton.jit
def square_sums_across(sums, weights, gradient, n, BLOCK: tl.constexpr):
    """Σ g² of one row's gradient at right angles to the row."""
    column = tl.arange(0, BLOCK)
    at = tl.program_id(0).to(tl.int64) * n + column
    weight = tl.load(weights + at, mask=column < n, other=0.0)
    slope = tl.load(gradient + at, mask=column < n, other=0.0).to(tl.float32)
    slope = _across(slope, weight)
    tl.store(sums + tl.program_id(0), tl.sum(slope * slope, 0))


@triton.jit
def _moved(weight, slope, mean, square, rate, slack1, beta2, slack2, root2, eps):
    """A weight and its two averages after a step; the slacks are 1 - β, root2 is √(1 - β2^t)."""
    mean += slack1 * (slope - mean)
    square = beta2 * square + slack2 * slope * slope
    weight -= rate * mean / (tl.sqrt_rn(square) / root2 + eps)
    return weight, mean, square


@triton.jit
def adam(
    weights,
    gradient,
    means,
    squares,
    clip,
    size,
    rate,
    slack1,
    beta2,
    slack2,
    root2,
    eps,
    BLOCK: tl.constexpr,
):
    """Clip and step a block of entries; nothing if the clip is not finite."""
    factor = tl.load(clip).to(tl.float32)
    if not tl.abs(factor) < INFINITY:
        return
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    weight = tl.load(weights + at, mask=at < size, other=0.0)
    slope = factor * tl.load(gradient + at, mask=at < size, other=0.0).to(tl.float32)
    mean = tl.load(means + at, mask=at < size, other=0.0)
    square = tl.load(squares + at, mask=at < size, other=0.0)
    weight, mean, square = _moved(
        weight, slope, mean, square, rate, slack1, beta2, slack2, root2, eps
    )
    tl.store(weights + at, weight, mask=at < size)
    tl.store(means + at, mean, mask=at < size)
    tl.store(squares + at, square, mask=at < size)


@triton.jit
def adam_unit_rows(
    weights,
    gradient,
    means,
    squares,
    clip,
    n,
    rate,
    slack1,
    beta2,
    slack2,
    root2,
    eps,
    BLOCK: tl.constexpr,
):
    """Project, clip, step and renormalise one row; nothing if the clip is not finite."""
    factor = tl.load(clip).to(tl.float32)
    if not tl.abs(factor) < INFINITY:
        return
    column = tl.arange(0, BLOCK)
    at = tl.program_id(0).to(tl.int64) * n + column
    weight = tl.load(weights + at, mask=column < n, other=0.0)
    slope = tl.load(gradient + at, mask=column < n, other=0.0).to(tl.float32)
    mean = tl.load(means + at, mask=column < n, other=0.0)
    square = tl.load(squares + at, mask=column < n, other=0.0)
    weight, mean, square = _moved(
        weight,
        factor * _across(slope, weight),
        mean,
        square,
        rate,
        slack1,
        beta2,
        slack2,
        root2,
        eps,
    )
    weight = tl.where(column < n, weight, 0.0)  # with an eps of 0 it is 0 / 0 past the end
    weight /= tl.maximum(tl.sqrt_rn(tl.sum(weight * weight, 0)), EPSILON)
    tl.store(weights + at, weight, mask=column < n)
    tl.store(means + at, mean, mask=column < n)
    tl.store(squares + at, square, mask=column < n)
