"""The compiled loops over windows and averages behind `cpu`: numpy arrays only.

A loop over rows does one of several parts, and `threads` runs them side by side. The rows go to the
parts in turn (row r to part r mod parts), since the first ones have the most pairs; a result is
written for each row, so that nothing depends on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from temporal_sae.kernels.alpha import PAIR, UNION

BLOCK = 64  # pairs looked at together; skipped when none of them occurred
SCAN_FROM = 128  # a row is scanned, not walked, when it has 1 increment for this many pairs
TINY = np.finfo(np.float32).tiny

compiled = njit(nogil=True, cache=True, error_model="numpy")


@intrinsic
def population_count(typing_context, x):
    """Number of set bits of a 64-bit integer."""

    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


@compiled
def sort_rows(part, parts, indices, n_latents, rows, problems):
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
def list_tokens(rows, n_latents):
    """Sizes of the rows, and for each latent its tokens, its slots in them, and its bits."""
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
    """Tokens that both latents have."""
    first, second = bits[i], bits[j]
    total = np.uint64(0)
    for w in range(first.size):
        total += population_count(np.uint64(first[w] & second[w]))
    return total


@compiled
def count_listed(part, parts, bits, i, j, counts):
    """n_ij of listed pairs."""
    for q in range(part * i.size // parts, (part + 1) * i.size // parts):
        counts[q] = _common(bits, i[q], j[q])


@compiled
def count_in_tokens(part, parts, bits, rows, sizes, counts):
    """n_ij of all pairs of each token, symmetric, 0 on the diagonal."""
    for m in range(part, rows.shape[0], parts):
        for p in range(sizes[m]):
            for q in range(p):
                n = _common(bits, rows[m, p], rows[m, q])
                counts[m, p, q] = n
                counts[m, q, p] = n


@compiled
def _count(window, i, counts):
    """Add the pairs (i, j), j > i, to counts[j - i - 1]; returns how many there were."""
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
def count_rows(part, parts, window, lo, hi, counts):
    """n_ij of some rows as a matrix."""
    for i in range(lo + part, hi, parts):
        _count(window, i, counts[i - lo, i + 1 :])


@compiled
def list_pairs(part, parts, window, lo, hi, least, counter, places, out):
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
    """The same by walking the tokens again, for a row with few pairs."""
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
def histogram(part, parts, window, lo, hi, counter, histograms):
    """How many pairs have each count, by part."""
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


@compiled
def close_rows(
    part,
    parts,
    averages,
    lo,
    hi,
    previous,
    window,
    has_previous,
    n_tokens,
    source,
    step,
    counter,
    sums,
):
    """One pass over the packed averages: fold `previous` in, compare `window`, row by row.

    Args:
        n_tokens: float32 tokens of `previous` and of `window`.
        step: float32 cap and scale of α, see `AlphaStep`.
        sums: Σ_j c s of each row, written.
    """
    n_latents = window[2].size - 1
    base = lo * n_latents - lo * (lo + 1) // 2
    counts = np.zeros(n_latents, counter.dtype)
    for i in range(lo + part, hi, parts):
        first = i * n_latents - i * (i + 1) // 2 - base
        row = averages[first : first + n_latents - i - 1]
        if has_previous:
            _fold(previous, i, counts[: row.size], row, n_tokens[0], source, step)
        sums[i - lo] = _compare(window, i, counts[: row.size], row, n_tokens[1])


@compiled
def _fold(window, i, counts, averages, n_tokens, source, step):
    """c̄ ← c̄ + α (c - c̄) for one row; `counts` is all 0 before and after."""
    rows, sizes, starts, tokens, slots = window
    total = _count(window, i, counts)
    if source != PAIR:
        _fold_whole_row(window, i, counts, averages, n_tokens, source, step)
        counts[:] = 0
    elif total * SCAN_FROM > averages.size:
        _move(averages, counts, n_tokens, step)
        counts[:] = 0
    else:
        for e in range(starts[i], starts[i + 1]):
            row = rows[tokens[e]]
            for p in range(slots[e] + 1, sizes[tokens[e]]):
                q = row[p] - i - 1
                if counts[q]:
                    _move(averages[q : q + 1], counts[q : q + 1], n_tokens, step)
                    counts[q] = 0


@compiled
def _move(averages, counts, n_tokens, step):
    """The step of a pair's average with α = min(cap, n_ij / scale)."""
    cap, scale = step[0], step[1]
    for q in range(averages.size):
        n, old = np.float32(counts[q]), averages[q]
        averages[q] = old + min(n / scale, cap) * (n / n_tokens - old)


@compiled
def _fold_whole_row(window, i, counts, averages, n_tokens, source, step):
    """The step where pairs that did not occur move too."""
    starts = window[2]
    cap, scale = step[0], step[1]
    own = starts[i + 1] - starts[i]
    for q in range(averages.size):
        n, old = np.float32(counts[q]), averages[q]
        alpha = cap
        if source == UNION:
            j = q + i + 1
            either = np.float32(own + starts[j + 1] - starts[j] - np.int64(counts[q]))
            alpha = min(either / scale, cap)
        averages[q] = old + alpha * (n / n_tokens - old)


@compiled
def _compare(window, i, counts, averages, n_tokens):
    """Σ_j c s of one row; `counts` is all 0 before and after."""
    rows, sizes, starts, tokens, slots = window
    total = _count(window, i, counts)
    weight = 0.0
    if total * SCAN_FROM > averages.size:
        for a in range(0, averages.size, BLOCK):
            block = counts[a : a + BLOCK]
            if _any(block):
                weight += _instability_sum(averages[a : a + BLOCK], block, n_tokens)
                block[:] = 0
    else:
        for e in range(starts[i], starts[i + 1]):
            row = rows[tokens[e]]
            for p in range(slots[e] + 1, sizes[tokens[e]]):
                q = row[p] - i - 1
                if counts[q]:
                    weight += _instability_sum(averages[q : q + 1], counts[q : q + 1], n_tokens)
                    counts[q] = 0
    return weight


# The order of this sum is free, so that the compiler can add several at a time.
@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz"})
def _instability_sum(averages, counts, n_tokens):
    total = np.float32(0)
    for q in range(averages.size):
        rate, average = np.float32(counts[q]) / n_tokens, averages[q]
        larger = rate if rate > average else average
        total += rate * (abs(rate - average) / max(larger, TINY))
    return np.float64(total)


@compiled
def look_up(part, parts, averages, n_latents, lo, hi, i, j, values):
    """Averages of listed pairs, from the packed rows `lo` to `hi`."""
    base = lo * n_latents - lo * (lo + 1) // 2
    for q in range(part * i.size // parts, (part + 1) * i.size // parts):
        row, column = np.int64(min(i[q], j[q])), np.int64(max(i[q], j[q]))
        values[q] = 0
        if row != column and lo <= row < hi:
            values[q] = averages[row * n_latents - row * (row + 1) // 2 - row - 1 + column - base]
