"""Running averages in numba, on torch's threads: a row's two passes while it is in the cache."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.kernels.averages.naive import PAIR, UNION, AlphaStep
from temporal_sae.kernels.threads import compiled, on_threads
from temporal_sae.kernels.windows.cpu import WindowIndex

BLOCK = 64  # pairs looked at together; skipped when none of them occurred
SCAN_FROM = 128  # a row is scanned, not walked, when it has 1 increment for this many pairs
TINY = np.finfo(np.float32).tiny


def close_dense(
    averages: Float[Tensor, " pairs"],
    lo: int,
    hi: int,
    previous: WindowIndex | None,
    step: AlphaStep,
    window: WindowIndex,
) -> Float[Tensor, ""]:
    sums = np.zeros(hi - lo)
    before = window if previous is None else previous
    on_threads(
        _close_loop,
        averages.numpy(),
        lo,
        hi,
        before.lists(),
        window.lists(),
        previous is not None,
        np.array([before.n_tokens, window.n_tokens], np.float32),
        step.source,
        np.array([step.cap, step.scale], np.float32),
        max(before.counter(), window.counter(), key=lambda counter: counter.itemsize),
        sums,
    )
    return torch.tensor(sums.sum())


def lookup_dense(
    averages: Float[Tensor, " pairs"], n_latents: int, lo: int, hi: int, i: Tensor, j: Tensor
) -> Float[Tensor, "*n"]:
    values = torch.empty(i.shape)
    first, second = (t.reshape(-1).numpy() for t in (i, j))
    places = (n_latents, lo, hi, first, second)
    on_threads(_look_up_loop, averages.numpy(), *places, values.view(-1).numpy())
    return values


@compiled
def _close_loop(
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
    """Fold `previous` in and compare `window`, row by row, in one pass over the averages.

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
    """Set c̄ ← c̄ + α (c - c̄) in one row; `counts` is all 0 before and after."""
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
    """Step each pair's average with α = min(cap, n_ij / scale)."""
    cap, scale = step[0], step[1]
    for q in range(averages.size):
        n, old = np.float32(counts[q]), averages[q]
        averages[q] = old + min(n / scale, cap) * (n / n_tokens - old)


@compiled
def _fold_whole_row(window, i, counts, averages, n_tokens, source, step):
    """Step where pairs that did not occur move too."""
    starts = window[2]
    cap, scale = step[0], step[1]
    n_i = starts[i + 1] - starts[i]
    for q in range(averages.size):
        n, old = np.float32(counts[q]), averages[q]
        alpha = cap
        if source == UNION:
            j = q + i + 1
            either = np.float32(n_i + starts[j + 1] - starts[j] - np.int64(counts[q]))
            alpha = min(either / scale, cap)
        averages[q] = old + alpha * (n / n_tokens - old)


@compiled
def _compare(window, i, counts, averages, n_tokens):
    """Return Σ_j c s of one row; `counts` is all 0 before and after."""
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
@compiled(fastmath={"reassoc", "nsz"})
def _instability_sum(averages, counts, n_tokens):
    total = np.float32(0)
    for q in range(averages.size):
        rate, average = np.float32(counts[q]) / n_tokens, averages[q]
        larger = rate if rate > average else average
        total += rate * (abs(rate - average) / max(larger, TINY))
    return np.float64(total)


# These two are also in `windows.cpu`; a loop may call none of another file, see `threads`.
@compiled
def _count(window, i, counts):
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
def _look_up_loop(part, parts, averages, n_latents, lo, hi, i, j, values):
    base = lo * n_latents - lo * (lo + 1) // 2
    for q in range(part * i.size // parts, (part + 1) * i.size // parts):
        row, column = np.int64(min(i[q], j[q])), np.int64(max(i[q], j[q]))
        values[q] = 0
        if row != column and lo <= row < hi:
            values[q] = averages[row * n_latents - row * (row + 1) // 2 - row - 1 + column - base]
