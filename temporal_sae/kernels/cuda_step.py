"""The operations of `plain_step` for CUDA, in Triton and torch, without waiting for the device.

Only `list_above` waits. Weights, gradients and tokens may be bfloat16 where they are only read;
results are float32, and float64 what `squared_norm` adds up.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels import triton_step
from temporal_sae.kernels.plain_step import (
    AdamStep,
    ByLatent,
    kth_largest,
    list_above,
    select_topk,
)
from temporal_sae.kernels.triton_launch import launch

TILE = {"SLOTS": 16, "BLOCK": 128}  # slots and columns that a program works on at a time
BLOCK = 2048  # entries of a program where a row is nothing special
ENTRIES_PER_WARP = 512  # of a row that one program holds in its registers
MOST_WARPS = 16

__all__ = [
    "AdamStep",
    "ByLatent",
    "adam_",
    "decode_rows",
    "dot_rows",
    "kth_largest",
    "list_above",
    "list_by_latent",
    "select_topk",
    "squared_norm",
    "sum_by_latent",
]


def list_by_latent(indices: Int[Tensor, "B K"], d_sae: int) -> ByLatent:
    """See `plain_step.list_by_latent`; sorted as int32, in half the passes that int64 takes."""
    latents = torch.where(indices >= 0, indices, d_sae).int().flatten()
    latents, slots = latents.sort(stable=True)
    bounds = torch.arange(d_sae + 1, dtype=torch.int32, device=latents.device)
    return ByLatent(torch.searchsorted(latents, bounds), slots)


def decode_rows(
    values: Float[Tensor, "B K"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B d"]:
    """See `plain_step.decode_rows`."""
    (n_tokens, n_slots), d = indices.shape, W.shape[1]
    out = torch.empty(n_tokens, d, device=W.device)
    arguments = (values.contiguous(), indices.contiguous(), W.contiguous(), n_slots, d)
    _launch_tiles(triton_step.decode_rows, n_tokens * _parts(d), out, *arguments)
    return out


def dot_rows(
    G: Float[Tensor, "B d"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B K"]:
    """See `plain_step.dot_rows`."""
    (n_tokens, n_slots), d = indices.shape, W.shape[1]
    out = torch.empty(n_tokens, n_slots, device=W.device)
    arguments = (G.contiguous(), indices.contiguous(), W.contiguous(), n_slots, d)
    n_programs = n_tokens * -(-n_slots // TILE["SLOTS"])
    _launch_tiles(triton_step.dot_rows, n_programs, out, *arguments)
    return out


def sum_by_latent(
    lists: ByLatent, values: Float[Tensor, "B K"], X: Float[Tensor, "B d"]
) -> Float[Tensor, "F d"]:
    """See `plain_step.sum_by_latent`."""
    d_sae, d = len(lists.starts) - 1, X.shape[1]
    out = torch.empty(d_sae, d, device=X.device)
    arguments = (*lists, values.contiguous(), X.contiguous(), values.shape[1], d)
    _launch_tiles(triton_step.sum_by_latent, d_sae * _parts(d), out, *arguments)
    return out


def _parts(d: int) -> int:
    """Programs that share the width of a row."""
    return -(-d // TILE["BLOCK"])


def _launch_tiles(kernel: Any, n_programs: int, *arguments: Any) -> None:
    launch(kernel, n_programs, *arguments, **TILE, enable_fp_fusion=True)


def squared_norm(
    weights: Float[Tensor, "rows n"], gradient: Float[Tensor, "rows n"], unit_rows: bool
) -> Float[Tensor, ""]:
    """See `plain_step.squared_norm`; summed as float32 within a row or a block."""
    rows, n = gradient.shape
    n_programs = rows if unit_rows else _n_blocks(gradient)
    sums = torch.empty(n_programs, device=gradient.device)
    options = _options(n, unit_rows)
    if unit_rows:
        launch(triton_step.square_sums_across, n_programs, sums, weights, gradient, n, **options)
    else:
        size = gradient.numel()
        launch(triton_step.square_sums, n_programs, sums, gradient, size, **options)
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
    """See `plain_step.adam_`."""
    rows, n = weights.shape
    if unit_rows:
        kernel, n_programs, size = triton_step.adam_unit_rows, rows, n
    else:
        kernel, n_programs, size = triton_step.adam, _n_blocks(weights), weights.numel()
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
    """The size of a program: one row of width n, or a block of entries."""
    block = 1 << max(0, n - 1).bit_length() if unit_rows else BLOCK
    warps = min(max(block // ENTRIES_PER_WARP, 1), MOST_WARPS)
    return {"BLOCK": block, "num_warps": warps, "enable_fp_fusion": True}
