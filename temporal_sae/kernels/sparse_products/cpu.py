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
    out = buffer_pool.empty(len(indices), W.shape[1])
    slots = as_array(indices), as_array(values)
    for lo, hi, block in _blocks(as_array(W), indices.numel()):
        on_threads(_decode_loop, *slots, block, lo, hi, out.numpy())
    return out


def dot_rows(
    G: Float[Tensor, "B d"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B K"]:
    out = torch.zeros(indices.shape)
    sides = as_array(indices), as_array(G)
    for lo, hi, block in _blocks(as_array(W), indices.numel()):
        on_threads(_dot_loop, *sides, block, lo, hi, out.numpy())
    return out


def sum_by_latent(
    lists: ByLatent, values: Float[Tensor, "B K"], X: Float[Tensor, "B d"]
) -> Float[Tensor, "F d"]:
    starts, slots = as_array(lists.starts), as_array(lists.slots)
    tokens, kept = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    on_threads(_take_slots_loop, slots, as_array(values), tokens, kept)
    out = buffer_pool.empty(len(starts) - 1, X.shape[1])
    for lo, hi, block in _blocks(as_array(X), len(tokens)):
        on_threads(_sum_loop, starts, tokens, kept, block, lo, hi, out.numpy())
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
def _decode_loop(part, parts, indices, values, block, lo, hi, out):
    """Set out[r, lo:hi] = Σ_s values[r, s] block[indices[r, s]] over the filled slots."""
    width = indices.shape[1]
    columns, kept = np.empty(width, indices.dtype), np.empty(width, values.dtype)
    for r in range(part, len(indices), parts):
        total = out[r, lo:hi]
        total[:] = 0
        if _all_filled(indices[r]):
            _add_rows(total, block, indices[r], values[r], 0, width)
            continue
        n = 0
        for s in range(width):
            if indices[r, s] >= 0:
                columns[n], kept[n] = indices[r, s], values[r, s]
                n += 1
        _add_rows(total, block, columns, kept, 0, n)


@compiled(fastmath=FAST)
def _dot_loop(part, parts, indices, vectors, block, lo, hi, out):
    """Add to out[r, s] vectors[r, lo:hi] · block[indices[r, s]] over the filled slots."""
    width = indices.shape[1]
    columns, places = np.empty(width, indices.dtype), np.empty(width, np.int64)
    dots = np.empty(width, out.dtype)
    for r in range(part, len(indices), parts):
        if _all_filled(indices[r]):
            _add_dots(out[r], vectors[r, lo:hi], block, indices[r], 0, width)
            continue
        n = 0
        for s in range(width):
            if indices[r, s] >= 0:
                columns[n], places[n], dots[n] = indices[r, s], s, 0
                n += 1
        _add_dots(dots, vectors[r, lo:hi], block, columns, 0, n)
        for e in range(n):
            out[r, places[e]] += dots[e]


@compiled(fastmath=FAST)
def _all_filled(indices):
    bits = indices.dtype.type(0)
    for index in indices:
        bits |= index
    return bits >= 0


@compiled(fastmath=FAST)
def _take_slots_loop(part, parts, slots, values, tokens, kept):
    """Write the token and the value of each slot, in their order."""
    width = values.shape[1]
    flat = values.reshape(-1)
    for e in range(part * tokens.size // parts, (part + 1) * tokens.size // parts):
        tokens[e], kept[e] = slots[e] // width, flat[slots[e]]


@compiled(fastmath=FAST)
def _sum_loop(part, parts, starts, tokens, values, block, lo, hi, out):
    """Set out[r, lo:hi] = Σ values[e] block[tokens[e]] over starts[r] <= e < starts[r + 1]."""
    for r in range(part, starts.size - 1, parts):
        total = out[r, lo:hi]
        total[:] = 0
        _add_rows(total, block, tokens, values, starts[r], starts[r + 1])


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
