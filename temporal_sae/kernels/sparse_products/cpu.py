"""Sparse products in numba, on torch's threads.

Sums of gathered rows walk the width of the matrix in blocks, each copied to where it is contiguous
first, so that the gathered pieces stay in the caches. Nothing depends on the number of threads,
since every element is added up in one fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels import buffer_pool
from temporal_sae.kernels.sparse_products.naive import ByLatent
from temporal_sae.kernels.threads import as_array, compiled, on_threads

FAST = {"reassoc", "nsz", "contract"}  # every sum is in one order, but this order is free
WIDEST, NARROWEST = 384, 64  # columns of a block
BLOCK_BYTES = 5 * 2**20  # of a block, between those: a share of the last-level cache
COPIED_FROM = 6  # gathers of each row, on average, from which on copying the blocks pays


def list_by_latent(indices: Int[Tensor, "B K"], d_sae: int) -> ByLatent:
    starts = torch.zeros(d_sae + 1, dtype=torch.int64)
    slots = torch.empty(indices.numel(), dtype=torch.int32)
    _list_by_latent(as_array(indices), starts.numpy(), slots.numpy())
    return ByLatent(starts, slots)


def decode_rows(
    values: Float[Tensor, "B K"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B d"]:
    starts, columns, filled = _by_token(indices)
    kept = values.flatten() if filled is None else values.flatten()[filled]
    return _gather_sum(starts, columns, kept, W)


def dot_rows(
    G: Float[Tensor, "B d"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B K"]:
    starts, columns, filled = _by_token(indices)
    dots = torch.zeros(len(columns))
    for lo, hi, block in _blocks(as_array(W), len(columns)):
        gathered = (starts, columns, as_array(G), block, lo, hi)
        on_threads(_gather_dot_loop, *gathered, dots.numpy())
    if filled is None:
        return dots.view(indices.shape)
    out = torch.zeros(indices.numel())
    out[filled] = dots
    return out.view(indices.shape)


def sum_by_latent(
    lists: ByLatent, values: Float[Tensor, "B K"], X: Float[Tensor, "B d"]
) -> Float[Tensor, "F d"]:
    slots = lists.slots[: int(lists.starts[-1])]
    tokens = (slots // max(1, values.shape[1])).to(torch.int32)
    return _gather_sum(lists.starts.numpy(), tokens.numpy(), values.flatten()[slots.long()], X)


def _gather_sum(starts: np.ndarray, columns: np.ndarray, values: Tensor, matrix: Tensor) -> Tensor:
    out = buffer_pool.empty(len(starts) - 1, matrix.shape[1])
    for lo, hi, block in _blocks(as_array(matrix), len(columns)):
        gathered = (starts, columns, as_array(values), block, lo, hi)
        on_threads(_gather_sum_loop, *gathered, out.numpy())
    return out


def _blocks(matrix: np.ndarray, n_gathers: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield each block of columns: its bounds, and what is in it until the next one comes."""
    n, d = matrix.shape
    width = _block_width(n, d, n_gathers)
    if d <= width:
        yield 0, d, matrix
        return
    block = np.empty((n, width), matrix.dtype)
    for lo in range(0, d, width):
        hi = min(lo + width, d)
        on_threads(_copy_columns_loop, matrix, lo, hi, block)
        yield lo, hi, block


def _by_token(indices: Tensor) -> tuple[np.ndarray, np.ndarray, Tensor | None]:
    """Return starts and latents of the filled slots, and which slots those are unless all."""
    n_tokens, width = indices.shape
    filled = indices >= 0
    columns = indices.to(torch.int32).flatten()
    if bool(filled.all()):
        return np.arange(n_tokens + 1) * width, columns.numpy(), None
    ends = filled.sum(-1).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])
    filled = filled.flatten()
    return starts.numpy(), columns[filled].numpy(), filled


def _block_width(n_rows: int, d: int, n_gathers: int) -> int:
    """Return the columns of a block: not by the machine, since the order of sums depends on it."""
    fitting = BLOCK_BYTES // (4 * max(1, n_rows)) // 32 * 32
    return min(WIDEST, max(NARROWEST, fitting)) if n_gathers >= COPIED_FROM * n_rows else d


@compiled(fastmath=FAST)
def _copy_columns_loop(part, parts, matrix, lo, hi, block):
    """Copy the columns `lo` to `hi` of a matrix to where they are contiguous."""
    for i in range(part * len(matrix) // parts, (part + 1) * len(matrix) // parts):
        block[i, : hi - lo] = matrix[i, lo:hi]


@compiled(fastmath=FAST)
def _gather_sum_loop(part, parts, starts, columns, values, block, lo, hi, out):
    """Set out[r, lo:hi] = Σ values[e] block[columns[e]] over starts[r] <= e < starts[r + 1]."""
    for r in range(part, starts.size - 1, parts):
        total = out[r, lo:hi]
        total[:] = 0
        _add_rows(total, block, columns, values, starts[r], starts[r + 1])


@compiled(fastmath=FAST)
def _add_rows(total, block, columns, values, start, end):
    """Add four rows at a time: one load and store of the sum for four of what is added."""
    e = start
    while e + 4 <= end:
        a, b, c, d = columns[e], columns[e + 1], columns[e + 2], columns[e + 3]
        p, q, r, s = values[e], values[e + 1], values[e + 2], values[e + 3]
        for j in range(total.size):
            total[j] += (p * block[a, j] + q * block[b, j]) + (r * block[c, j] + s * block[d, j])
        e += 4
    while e < end:
        a, p = columns[e], values[e]
        for j in range(total.size):
            total[j] += p * block[a, j]
        e += 1


@compiled(fastmath=FAST)
def _gather_dot_loop(part, parts, starts, columns, vectors, block, lo, hi, out):
    """Add to out[e] vectors[r, lo:hi] · block[columns[e]] for starts[r] <= e < starts[r + 1]."""
    for r in range(part, starts.size - 1, parts):
        _add_dots(out, vectors[r, lo:hi], block, columns, starts[r], starts[r + 1])


@compiled(fastmath=FAST)
def _add_dots(out, vector, block, columns, start, end):
    zero = vector.dtype.type(0)
    e = start
    while e + 4 <= end:
        a, b, c, d = columns[e], columns[e + 1], columns[e + 2], columns[e + 3]
        p, q, r, s = zero, zero, zero, zero
        for j in range(vector.size):
            x = vector[j]
            p += x * block[a, j]
            q += x * block[b, j]
            r += x * block[c, j]
            s += x * block[d, j]
        out[e] += p
        out[e + 1] += q
        out[e + 2] += r
        out[e + 3] += s
        e += 4
    while e < end:
        a, p = columns[e], zero
        for j in range(vector.size):
            p += vector[j] * block[a, j]
        out[e] += p
        e += 1


@compiled(fastmath=FAST)
def _list_by_latent(indices, starts, slots):
    """Sort the slots by their latents, by counting."""
    flat = indices.reshape(-1)
    for latent in flat:
        if latent >= 0:
            starts[latent + 1] += 1
    for i in range(starts.size - 1):
        starts[i + 1] += starts[i]
    place = starts[:-1].copy()
    for slot in range(flat.size):
        latent = flat[slot]
        if latent >= 0:
            slots[place[latent]] = slot
            place[latent] += 1
