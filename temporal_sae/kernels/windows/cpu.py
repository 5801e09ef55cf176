"""Counts of pairs in numba, on torch's threads.

A window is kept three ways: the latents of each token (rows), the tokens of each latent (as slices
of one list), and one bit for each latent and token. The counts of a row of pairs (i, j), j > i, are
gathered in a buffer that fits the first-level cache, from the tails of the rows of i's tokens; a
single pair's count is a population count of two bit rows. No matrix of counts ever exists.

A loop over rows does one of several parts. Row r goes to part r mod parts, since the first rows
have the most pairs; a result is written for each row, so that nothing depends on the number of
threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from temporal_sae.kernels.threads import compiled, on_threads

BLOCK = 64  # pairs looked at together; skipped when none of them occurred
SCAN_FROM = 128  # a row is scanned, not walked, when it has 1 increment for this many pairs


class WindowIndex(NamedTuple):
    """A closed window, ready for questions about its pairs."""

    rows: Int[Tensor, "W K"]
    sizes: Int[Tensor, " W"]
    starts: Int[Tensor, " F+1"]
    tokens: Int[Tensor, " active"]
    slots: Int[Tensor, " active"]
    bits: Int[Tensor, "F words"]

    @property
    def n_tokens(self) -> int:
        return self.rows.shape[0]

    @property
    def n_latents(self) -> int:
        return self.starts.shape[0] - 1

    def lists(self) -> tuple[np.ndarray, ...]:
        """Return what the loops walk: rows, sizes, and the tokens and slots of each latent."""
        return tuple(t.numpy() for t in self[:5])

    def counter(self) -> np.ndarray:
        """Return an array of the smallest integer type that can count to W."""
        kind = np.uint16 if self.n_tokens < 2**16 else np.uint32
        return np.zeros(1, kind)


def sorted_rows(indices: Int[Tensor, "tokens K"], n_latents: int) -> Int[Tensor, "tokens K"]:
    rows = torch.empty(indices.shape, dtype=torch.int32)
    problems = np.zeros(len(indices), np.bool_)
    on_threads(_sort_loop, indices.contiguous().numpy(), n_latents, rows.numpy(), problems)
    if not problems.any():
        return rows
    token = int(problems.argmax())
    latents = indices[token]
    outside = latents[(latents < -1) | (latents >= n_latents)]
    if len(outside):
        allowed = f"from -1 (empty) to {n_latents - 1}"
        raise ValueError(f"indices: found {int(outside[0])}, must be {allowed}")
    same = rows[token, 1:][(rows[token, 1:] == rows[token, :-1]) & (rows[token, 1:] >= 0)]
    raise ValueError(f"indices: latent {int(same[0])} twice in token {token}")


def index_window(rows: Int[Tensor, "W K"], n_latents: int) -> WindowIndex:
    lists = _list_tokens(rows.contiguous().numpy(), n_latents)
    return WindowIndex(rows.contiguous(), *map(torch.from_numpy, lists))


def pair_counts(index: WindowIndex, i: Tensor, j: Tensor) -> Tensor:
    i, j = torch.broadcast_tensors(i, j)
    counts = torch.empty(i.shape, dtype=torch.int32)
    first, second = (t.reshape(-1).long().numpy() for t in (i, j))
    on_threads(_count_listed_loop, index.bits.numpy(), first, second, counts.view(-1).numpy())
    return counts


def token_counts(index: WindowIndex, tokens: Int[Tensor, " M"]) -> Int[Tensor, "M K K"]:
    width = index.rows.shape[1]
    counts = torch.zeros(len(tokens), width, width, dtype=torch.int32)
    sizes = index.sizes[tokens].numpy()
    rows = index.rows[tokens].numpy()
    on_threads(_count_in_tokens_loop, index.bits.numpy(), rows, sizes, counts.numpy())
    return counts


def count_rows(index: WindowIndex, lo: int, hi: int) -> Int[Tensor, "rows F"]:
    counts = torch.zeros(hi - lo, index.n_latents, dtype=torch.int32)
    on_threads(_count_rows_loop, index.lists(), lo, hi, counts.numpy())
    return counts


def distinct_pairs(
    index: WindowIndex, lo: int, hi: int, min_count: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    arguments = (index.lists(), lo, hi, min_count, index.counter())
    sizes = np.zeros(hi - lo, np.int64)
    on_threads(_list_pairs_loop, *arguments, sizes, np.empty((3, 0), np.int32))
    ends = sizes.cumsum()
    out = np.empty((3, ends[-1] if len(ends) else 0), np.int32)
    if out.shape[1]:
        on_threads(_list_pairs_loop, *arguments, ends - sizes, out)
    i, j, n = torch.from_numpy(out)
    return i, j, n


def count_histogram(index: WindowIndex, lo: int, hi: int) -> Int[Tensor, " W+1"]:
    sums = np.zeros((torch.get_num_threads(), index.n_tokens + 1), np.int64)
    on_threads(_histogram_loop, index.lists(), lo, hi, index.counter(), sums)
    return torch.from_numpy(sums.sum(0))


@intrinsic
def _population_count(typing_context, x):
    """Return the number of set bits of a 64-bit integer."""

    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


@compiled
def _sort_loop(part, parts, indices, n_latents, rows, problems):
    """Sort each token's latents into `rows`, and mark where a token has a wrong or double one."""
    n_tokens, width = indices.shape
    for t in range(part, n_tokens, parts):
        row = rows[t]
        size = 0
        for p in range(width):
            latent = indices[t, p]
            if latent >= 0:
                row[size] = min(latent, n_latents)
                size += 1
            elif latent < -1:
                problems[t] = True
        row[:size].sort()
        row[size:] = -1
        for p in range(size):
            if row[p] == n_latents or (p > 0 and row[p] == row[p - 1]):
                problems[t] = True


@compiled
def _list_tokens(rows, n_latents):
    """Return the rows' sizes, and for each latent its tokens, its slots in them, and its bits."""
    n_tokens, width = rows.shape
    sizes = np.zeros(n_tokens, np.int32)
    starts = np.zeros(n_latents + 1, np.int64)
    for t in range(n_tokens):
        for p in range(width):
            if rows[t, p] < 0:
                break
            starts[rows[t, p] + 1] += 1
            sizes[t] += 1
    for i in range(n_latents):
        starts[i + 1] += starts[i]
    tokens = np.empty(starts[n_latents], np.int32)
    slots = np.empty(starts[n_latents], np.int32)
    bits = np.zeros((n_latents, (n_tokens + 63) // 64), np.int64)
    free = starts[:n_latents].copy()
    for t in range(n_tokens):
        for p in range(sizes[t]):
            latent = rows[t, p]
            tokens[free[latent]] = t
            slots[free[latent]] = p
            free[latent] += 1
            bits[latent, t >> 6] |= np.int64(1) << (t & 63)
    return sizes, starts, tokens, slots, bits


@compiled
def _common(bits, i, j):
    """Count the tokens that both latents have."""
    first, second = bits[i], bits[j]
    total = np.uint64(0)
    for w in range(first.size):
        total += _population_count(np.uint64(first[w] & second[w]))
    return total


@compiled
def _count_listed_loop(part, parts, bits, i, j, counts):
    for q in range(part * i.size // parts, (part + 1) * i.size // parts):
        counts[q] = _common(bits, i[q], j[q])


@compiled
def _count_in_tokens_loop(part, parts, bits, rows, sizes, counts):
    for m in range(part, rows.shape[0], parts):
        for p in range(sizes[m]):
            for q in range(p):
                n = _common(bits, rows[m, p], rows[m, q])
                counts[m, p, q] = n
                counts[m, q, p] = n


@compiled
def _count(window, i, counts):
    """Add the pairs (i, j), j > i, to counts[j - i - 1], and return how many there were."""
    rows, sizes, starts, tokens, slots = window
    total = 0
    one = counts.dtype.type(1)
    for e in range(starts[i], starts[i + 1]):
        row = rows[tokens[e]]
        size = sizes[tokens[e]]
        for p in range(slots[e] + 1, size):
            counts[np.uint32(row[p] - i - 1)] += one
        total += size - slots[e] - 1
    return total


@compiled
def _any(counts):
    seen = counts.dtype.type(0)
    for q in range(counts.size):
        seen |= counts[q]
    return seen != 0


@compiled
def _count_rows_loop(part, parts, window, lo, hi, counts):
    for i in range(lo + part, hi, parts):
        _count(window, i, counts[i - lo, i + 1 :])


@compiled
def _list_pairs_loop(part, parts, window, lo, hi, least, counter, places, out):
    """Count the pairs of each row into `places`; with an `out`, write them there from `places` on.

    `out` is int32 [3, pairs]: i, j and n, in order of j within a row.
    """
    n_latents = window[2].size - 1
    fill = out.shape[1] > 0
    counts = np.zeros(n_latents, counter.dtype)
    for i in range(lo + part, hi, parts):
        total = _count(window, i, counts)
        first = places[i - lo] if fill else 0
        if total * SCAN_FROM > n_latents - i:
            found = _scan_pairs(counts[: n_latents - i - 1], i, least, out[:, first:])
        else:
            found = _walk_pairs(window, counts, i, least, out[:, first:])
        if not fill:
            places[i - lo] = found


@compiled
def _scan_pairs(counts, i, least, out):
    """List what was counted in order, and clear the counts."""
    found = 0
    for a in range(0, counts.size, BLOCK):
        block = counts[a : a + BLOCK]
        if not _any(block):
            continue
        for q in range(block.size):
            if block[q] >= least:
                if out.shape[1]:
                    out[0, found], out[1, found], out[2, found] = i, i + 1 + a + q, block[q]
                found += 1
        block[:] = 0
    return found


@compiled
def _walk_pairs(window, counts, i, least, out):
    """Do the same by walking the tokens again, for a row with few pairs."""
    rows, sizes, starts, tokens, slots = window
    found = 0
    for e in range(starts[i], starts[i + 1]):
        row = rows[tokens[e]]
        for p in range(slots[e] + 1, sizes[tokens[e]]):
            n = counts[row[p] - i - 1]
            counts[row[p] - i - 1] = 0
            if n >= least:
                if out.shape[1]:
                    out[0, found], out[1, found], out[2, found] = i, row[p], n
                found += 1
    if out.shape[1]:
        order = np.argsort(out[1, :found])
        out[1, :found] = out[1, :found][order]
        out[2, :found] = out[2, :found][order]
    return found


@compiled
def _histogram_loop(part, parts, window, lo, hi, counter, histograms):
    """Count the pairs that have each n_ij, a histogram for each part."""
    n_latents = window[2].size - 1
    counts = np.zeros(n_latents, counter.dtype)
    bins = histograms[part]
    for i in range(lo + part, hi, parts):
        _count(window, i, counts)
        rows, sizes, starts, tokens, slots = window
        for e in range(starts[i], starts[i + 1]):
            row = rows[tokens[e]]
            for p in range(slots[e] + 1, sizes[tokens[e]]):
                bins[counts[row[p] - i - 1]] += 1
                counts[row[p] - i - 1] = 0
    bins[0] = 0
