"""Sparse products in numba, on torch's threads.

Where the rows that are gathered do not fit into the caches, slots are walked in the order of their
latents, so that each row of a large matrix is read once; the tokens' side is then what is gathered,
in blocks of columns that fit. Nothing depends on the number of threads, since every element is
added up in one fixed order.
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
GATHERED_OFTEN = 6  # times on average, from which on blocks and the order of latents pay


def list_by_latent(indices: Int[Tensor, "B K"], d_sae: int) -> ByLatent:
    starts = torch.zeros(d_sae + 1, dtype=torch.int64)
    slots = torch.empty(indices.numel(), dtype=torch.int32)
    _list_by_latent(as_array(indices), starts.numpy(), slots.numpy())
    return ByLatent(starts, slots)


def decode_rows(
    values: Float[Tensor, "B K"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B d"]:
    out = buffer_pool.empty(len(indices), W.shape[1])
    if _walks_latents(indices, W):
        starts, tokens, kept = _in_latent_order(list_by_latent(indices, len(W)), values)
        width = max(1, _block_width(*out.shape, len(tokens)) // 2)  # the blocks are of each thread
        on_threads(_decode_latents_loop, starts, tokens, kept, as_array(W), width, out.numpy())
        return out
    on_threads(_decode_loop, as_array(indices), as_array(values), as_array(W), out.numpy())
    return out


def dot_rows(
    G: Float[Tensor, "B d"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B K"]:
    out = torch.zeros(indices.shape)
    if _walks_latents(indices, W):
        lists = list_by_latent(indices, len(W))
        starts, tokens, dots = _in_latent_order(lists, out)
        for lo, hi, block in _blocks(as_array(G), len(tokens)):
            on_threads(_dot_latents_loop, starts, tokens, as_array(W), block, lo, hi, dots)
        out.view(-1)[lists.slots[: len(tokens)].long()] = torch.from_numpy(dots)
        return out
    on_threads(_dot_loop, as_array(indices), as_array(G), as_array(W), out.numpy())
    return out


def sum_by_latent(
    lists: ByLatent, values: Float[Tensor, "B K"], X: Float[Tensor, "B d"]
) -> Float[Tensor, "F d"]:
    starts, tokens, kept = _in_latent_order(lists, values)
    out = buffer_pool.empty(len(starts) - 1, X.shape[1])
    for lo, hi, block in _blocks(as_array(X), len(tokens)):
        on_threads(_sum_loop, starts, tokens, kept, block, lo, hi, out.numpy())
    return out


def _walks_latents(indices: Tensor, W: Tensor) -> bool:
    """Return whether rows of W are gathered often and do not stay in the caches meanwhile."""
    return 4 * W.numel() > BLOCK_BYTES and indices.numel() >= GATHERED_OFTEN * len(W)


def _in_latent_order(lists: ByLatent, values: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the starts of latents, and the token and the value of each slot in their order."""
    starts, slots = as_array(lists.starts), as_array(lists.slots)
    tokens, kept = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    on_threads(_take_slots_loop, slots, as_array(values), tokens, kept)
    return starts, tokens, kept


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
    often = n_gathers >= GATHERED_OFTEN * n_rows
    return min(d, WIDEST, max(NARROWEST, fitting)) if often else d


@compiled(fastmath=FAST)
def _copy_columns_loop(part, parts, matrix, lo, hi, block):
    """Copy the columns `lo` to `hi` of a matrix to where they are contiguous."""
    for i in range(part * len(matrix) // parts, (part + 1) * len(matrix) // parts):
        block[i, : hi - lo] = matrix[i, lo:hi]


@compiled(fastmath=FAST)
def _decode_loop(part, parts, indices, values, matrix, out):
    """Set out[r] = Σ_s values[r, s] matrix[indices[r, s]] over the filled slots."""
    width = indices.shape[1]
    columns, kept = np.empty(width, indices.dtype), np.empty(width, values.dtype)
    for r in range(part, len(indices), parts):
        out[r] = 0
        if _all_filled(indices[r]):
            _add_rows(out[r], matrix, indices[r], values[r], 0, width)
            continue
        n = 0
        for s in range(width):
            if indices[r, s] >= 0:
                columns[n], kept[n] = indices[r, s], values[r, s]
                n += 1
        _add_rows(out[r], matrix, columns, kept, 0, n)


@compiled(fastmath=FAST)
def _decode_latents_loop(part, parts, starts, tokens, values, matrix, width, out):
    """Set the same, latent after latent, in blocks of columns, each by one thread."""
    n_tokens, d = out.shape
    width = min(width, max(16, -(-d // parts)))  # lest threads be left without a block
    sums = np.empty((n_tokens, width), out.dtype)
    for lo in range(part * width, d, parts * width):
        hi = min(lo + width, d)
        sums[:] = 0
        for i in range(starts.size - 1):
            _add_to_rows(sums, tokens, values, matrix[i, lo:hi], starts[i], starts[i + 1])
        for r in range(n_tokens):
            out[r, lo:hi] = sums[r, : hi - lo]


@compiled(fastmath=FAST)
def _dot_loop(part, parts, indices, vectors, matrix, out):
    """Set out[r, s] = vectors[r] · matrix[indices[r, s]] over the filled slots."""
    width = indices.shape[1]
    columns, places = np.empty(width, indices.dtype), np.empty(width, np.int64)
    dots = np.empty(width, out.dtype)
    for r in range(part, len(indices), parts):
        if _all_filled(indices[r]):
            _add_dots(out[r], vectors[r], matrix, indices[r], 0, width)
            continue
        n = 0
        for s in range(width):
            if indices[r, s] >= 0:
                columns[n], places[n], dots[n] = indices[r, s], s, 0
                n += 1
        _add_dots(dots, vectors[r], matrix, columns, 0, n)
        for e in range(n):
            out[r, places[e]] = dots[e]


@compiled(fastmath=FAST)
def _dot_latents_loop(part, parts, starts, tokens, matrix, block, lo, hi, dots):
    """Add to dots[e] matrix[i, lo:hi] · block[tokens[e]] over the slots e of each latent i."""
    n = starts.size - 1
    for i in range(part * n // parts, (part + 1) * n // parts):
        _add_dots(dots, matrix[i, lo:hi], block, tokens, starts[i], starts[i + 1])


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
def _add_to_rows(totals, rows, values, added, start, end):
    """Add a row to four rows at a time, which differ: it is loaded once for them."""
    e = start
    while e + 4 <= end:
        a, b, c, d = totals[rows[e]], totals[rows[e + 1]], totals[rows[e + 2]], totals[rows[e + 3]]
        p, q, r, s = values[e], values[e + 1], values[e + 2], values[e + 3]
        for j in range(added.size):
            x = added[j]
            a[j] += p * x
            b[j] += q * x
            c[j] += r * x
            d[j] += s * x
        e += 4
    while e < end:
        total, p = totals[rows[e]], values[e]
        for j in range(added.size):
            total[j] += p * added[j]
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
