"""Sparse products for CUDA, in Triton, without waiting for the device.

Weights, gradients and tokens may be bfloat16 and are added up as float32. Tiles are a few slots by
a part of the width, kept apart until the end: many rows are on their way at once, and one reduction
is enough. No sum is made with atomics, so every one repeats to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels.sparse_products.naive import ByLatent
from temporal_sae.kernels.triton_launch import launch

TILE = {"SLOTS": 16, "BLOCK": 128}  # slots and columns that a program works on at a time


def list_by_latent(indices: Int[Tensor, "B K"], d_sae: int) -> ByLatent:
    # Sorted as int32, in half the passes that int64 takes.
    latents = torch.where(indices >= 0, indices, d_sae).int().flatten()
    latents, slots = latents.sort(stable=True)
    bounds = torch.arange(d_sae + 1, dtype=torch.int32, device=latents.device)
    return ByLatent(torch.searchsorted(latents, bounds), slots)


def decode_rows(
    values: Float[Tensor, "B K"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B d"]:
    (n_tokens, n_slots), d = indices.shape, W.shape[1]
    out = torch.empty(n_tokens, d, device=W.device)
    arguments = (values.contiguous(), indices.contiguous(), W.contiguous(), n_slots, d)
    _launch_tiles(_decode_kernel, n_tokens * _parts(d), out, *arguments)
    return out


def dot_rows(
    G: Float[Tensor, "B d"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B K"]:
    (n_tokens, n_slots), d = indices.shape, W.shape[1]
    out = torch.empty(n_tokens, n_slots, device=W.device)
    arguments = (G.contiguous(), indices.contiguous(), W.contiguous(), n_slots, d)
    n_programs = n_tokens * -(-n_slots // TILE["SLOTS"])
    _launch_tiles(_dot_kernel, n_programs, out, *arguments)
    return out


def sum_by_latent(
    lists: ByLatent, values: Float[Tensor, "B K"], X: Float[Tensor, "B d"]
) -> Float[Tensor, "F d"]:
    d_sae, d = len(lists.starts) - 1, X.shape[1]
    out = torch.empty(d_sae, d, device=X.device)
    arguments = (*lists, values.contiguous(), X.contiguous(), values.shape[1], d)
    _launch_tiles(_sum_kernel, d_sae * _parts(d), out, *arguments)
    return out


def decode_gradients(
    lists: ByLatent,
    values: Float[Tensor, "B K"],
    indices: Int[Tensor, "B K"],
    G: Float[Tensor, "B d"],
    W: Float[Tensor, "F d"],
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "F d"]]:
    return dot_rows(G, indices, W), sum_by_latent(lists, values, G)


def _parts(d: int) -> int:
    """Return how many programs share the width of a row."""
    return -(-d // TILE["BLOCK"])


def _launch_tiles(kernel: Any, n_programs: int, *arguments: Any) -> None:
    launch(kernel, n_programs, *arguments, **TILE, enable_fp_fusion=True)


@triton.jit
def _rows(matrix, row, wanted, column, d):
    """Load some columns of some rows, 0 where none is wanted."""
    places = matrix + row.to(tl.int64)[:, None] * d + column[None, :]
    inside = wanted[:, None] & (column < d)[None, :]
    return tl.load(places, mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["n_slots"])
def _decode_kernel(
    out, values, indices, weights, n_slots, d, SLOTS: tl.constexpr, BLOCK: tl.constexpr
):
    """Add up the weighted rows of one token's latents, for a part of the width."""
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
def _dot_kernel(
    out, gradient, indices, weights, n_slots, d, SLOTS: tl.constexpr, BLOCK: tl.constexpr
):
    """Multiply one token's gradient by the rows of some of its latents."""
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
def _sum_kernel(
    out, starts, slots, values, tokens, n_slots, d, SLOTS: tl.constexpr, BLOCK: tl.constexpr
):
    """Add up the weighted tokens of one latent, for a part of the width."""
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
