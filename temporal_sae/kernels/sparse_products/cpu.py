"""Sparse products in numba, on torch's threads.

Where the rows that are gathered do not fit into the caches, slots are walked in the order of their
latents, so that each row of a large matrix is read once; the tokens' side is then what is gathered,
in blocks of columns that fit. Nothing depends on the number of threads, since every element is
added up in one fixed order.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels import buffer_pool
from temporal_sae.kernels.sparse_products.naive import ByLatent
from temporal_sae.kernels.sparse_products.walk import (
    block_width,
    blocks,
    in_latent_order,
    list_by_latent,
    walks_latents,
)
from temporal_sae.kernels.threads import as_array, compiled, on_threads

FAST = {"reassoc", "nsz", "contract"}  # every sum is in one order, but this order is free


def decode_rows(
    values: Float[Tensor, "B K"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B d"]:
    out = buffer_pool.empty(len(indices), W.shape[1])
    if walks_latents(indices, W):
        starts, tokens, kept = in_latent_order(list_by_latent(indices, len(W)), values)
        n_tokens, d = out.shape
        width = max(1, block_width(n_tokens, d, len(tokens)) // 2)  # blocks are of each thread
        on_threads(_decode_latents_loop, starts, tokens, kept, as_array(W), width, out.numpy())
        return out
    on_threads(_decode_loop, as_array(indices), as_array(values), as_array(W), out.numpy())
    return out


def dot_rows(
    G: Float[Tensor, "B d"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B K"]:
    out = torch.zeros(indices.shape)
    if walks_latents(indices, W):
        lists = list_by_latent(indices, len(W))
        starts, tokens, dots = in_latent_order(lists, out)
        for lo, hi, block in blocks(as_array(G), len(tokens)):
            on_threads(_dot_latents_loop, starts, tokens, as_array(W), block, lo, hi, dots)
        return _in_slots(dots, lists, indices)
    on_threads(_dot_loop, as_array(indices), as_array(G), as_array(W), out.numpy())
    return out


def sum_by_latent(
    lists: ByLatent, values: Float[Tensor, "B K"], X: Float[Tensor, "B d"]
) -> Float[Tensor, "F d"]:
    starts, tokens, kept = in_latent_order(lists, values)
    out = buffer_pool.empty(len(starts) - 1, X.shape[1])
    for lo, hi, block in blocks(as_array(X), len(tokens)):
        on_threads(_sum_loop, starts, tokens, kept, block, lo, hi, out.numpy())
    return out


def decode_gradients(
    lists: ByLatent,
    values: Float[Tensor, "B K"],
    indices: Int[Tensor, "B K"],
    G: Float[Tensor, "B d"],
    W: Float[Tensor, "F d"],
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "F d"]]:
    if not walks_latents(indices, W):
        return dot_rows(G, indices, W), sum_by_latent(lists, values, G)
    starts, tokens, kept = in_latent_order(lists, values)
    dots, sums = np.zeros(len(tokens), np.float32), buffer_pool.empty(*W.shape)
    for lo, hi, block in blocks(as_array(G), len(tokens)):
        sides = (starts, tokens, kept, as_array(W), block, lo, hi)
        on_threads(_gradients_loop, *sides, dots, sums.numpy())
    return _in_slots(dots, lists, indices), sums


def _in_slots(numbers: np.ndarray, lists: ByLatent, indices: Tensor) -> Float[Tensor, "B K"]:
    """Put numbers in the order of latents back in their slots; 0 in empty ones."""
    out = torch.zeros(indices.shape)
    out.view(-1)[lists.slots[: len(numbers)].long()] = torch.from_numpy(numbers)
    return out


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
def _gradients_loop(part, parts, starts, tokens, values, matrix, block, lo, hi, dots, sums):
    """Do what the dots and the sums of latents do, with one look at the tokens' rows."""
    n = starts.size - 1
    for i in range(part * n // parts, (part + 1) * n // parts):
        sums[i, lo:hi] = 0
        row, total, end = matrix[i, lo:hi], sums[i, lo:hi], starts[i + 1]
        _add_dots_and_rows(dots, row, total, block, tokens, values, starts[i], end)


@compiled(fastmath=FAST)
def _all_filled(indices):
    bits = indices.dtype.type(0)
    for index in indices:
        bits |= index
    return bits >= 0


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
def _add_dots_and_rows(dots, vector, total, block, columns, values, start, end):
    zero = vector.dtype.type(0)
    e = start
    while e + 4 <= end:
        a, b, c, d = columns[e], columns[e + 1], columns[e + 2], columns[e + 3]
        v, w, x, y = values[e], values[e + 1], values[e + 2], values[e + 3]
        p, q, r, s = zero, zero, zero, zero
        for j in range(vector.size):
            p += vector[j] * block[a, j]
            q += vector[j] * block[b, j]
            r += vector[j] * block[c, j]
            s += vector[j] * block[d, j]
            total[j] += (v * block[a, j] + w * block[b, j]) + (x * block[c, j] + y * block[d, j])
        dots[e] += p
        dots[e + 1] += q
        dots[e + 2] += r
        dots[e + 3] += s
        e += 4
    while e < end:
        a, v, p = columns[e], values[e], zero
        for j in range(vector.size):
            p += vector[j] * block[a, j]
            total[j] += v * block[a, j]
        dots[e] += p
        e += 1
