"""Adam for CUDA, in Triton, without waiting for the device; gradients may be bfloat16."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from temporal_sae.kernels.adam import naive
from temporal_sae.kernels.adam.naive import AdamStep, adam_rows_
from temporal_sae.kernels.triton_launch import launch

__all__ = ["adam_", "adam_rows_", "squared_norm"]

BLOCK = 2048  # entries of a program where a row is nothing special
ENTRIES_PER_WARP = 512  # of a row that one program holds in its registers
MOST_WARPS = 16

EPSILON = tl.constexpr(naive.EPSILON)
INFINITY = tl.constexpr(float("inf"))


def squared_norm(
    weights: Float[Tensor, "rows n"], gradient: Float[Tensor, "rows n"], unit_rows: bool
) -> Float[Tensor, ""]:
    # Summed as float32 within a row or a block, and those sums as float64.
    rows, n = gradient.shape
    n_programs = rows if unit_rows else _n_blocks(gradient)
    sums = torch.empty(n_programs, device=gradient.device)
    options = _options(n, unit_rows)
    if unit_rows:
        launch(_square_sums_across_kernel, n_programs, sums, weights, gradient, n, **options)
    else:
        size = gradient.numel()
        launch(_square_sums_kernel, n_programs, sums, gradient, size, **options)
    return sums.sum(dtype=torch.float64)


def adam_(
    weights: Float[Tensor, "rows n"],
    gradient: Float[Tensor, "rows n"],
    mean: Float[Tensor, "rows n"],
    square: Float[Tensor, "rows n"],
    step: AdamStep,
    clip: Float[Tensor, ""],
    unit_rows: bool,
) -> None:
    rows, n = weights.shape
    if unit_rows:
        kernel, n_programs, size = _adam_unit_rows_kernel, rows, n
    else:
        kernel, n_programs, size = _adam_kernel, _n_blocks(weights), weights.numel()
    tensors = (weights, gradient, mean, square, clip)
    numbers = (
        float(step.lr / step.correction1),
        float(1 - step.beta1),
        float(step.beta2),
        float(1 - step.beta2),
        float(step.correction2**0.5),
        float(step.eps),
    )
    launch(kernel, n_programs, *tensors, size, *numbers, **_options(n, unit_rows))


def _n_blocks(entries: Tensor) -> int:
    return -(-entries.numel() // BLOCK)


def _options(n: int, unit_rows: bool) -> dict[str, int]:
    """Return the size of a program: one row of width n, or a block of entries."""
    block = 1 << max(0, n - 1).bit_length() if unit_rows else BLOCK
    warps = min(max(block // ENTRIES_PER_WARP, 1), MOST_WARPS)
    return {"BLOCK": block, "num_warps": warps, "enable_fp_fusion": True}


@triton.jit
def _square_sums_kernel(sums, gradient, size, BLOCK: tl.constexpr):
    """Write Σ g² of a block of entries."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    slope = tl.load(gradient + at, mask=at < size, other=0.0).to(tl.float32)
    tl.store(sums + tl.program_id(0), tl.sum(slope * slope, 0))


@triton.jit
def _across(slope, weight):
    """Return a row's gradient without its part along the row."""
    return slope - tl.sum(slope * weight, 0) * weight


@triton.jit
def _square_sums_across_kernel(sums, weights, gradient, n, BLOCK: tl.constexpr):
    """Write Σ g² of one row's gradient at right angles to the row."""
    column = tl.arange(0, BLOCK)
    at = tl.program_id(0).to(tl.int64) * n + column
    weight = tl.load(weights + at, mask=column < n, other=0.0)
    slope = tl.load(gradient + at, mask=column < n, other=0.0).to(tl.float32)
    slope = _across(slope, weight)
    tl.store(sums + tl.program_id(0), tl.sum(slope * slope, 0))


@triton.jit
def _moved(weight, slope, mean, square, rate, slack1, beta2, slack2, root2, eps):
    """Return a weight and its two averages after a step; slack is 1 - β, root2 √(1 - β2^t)."""
    mean += slack1 * (slope - mean)
    square = beta2 * square + slack2 * slope * slope
    weight -= rate * mean / (tl.sqrt_rn(square) / root2 + eps)
    return weight, mean, square


@triton.jit
def _adam_kernel(
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
def _adam_unit_rows_kernel(
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
