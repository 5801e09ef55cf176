"""Choosing latents in numba, on torch's threads.

A float32 that is not negative orders like the integer with its bits, its *key*. The k-th largest of
a row is found by counting the leading bits, then the next ones among those that share them; the
n-th largest of a batch by partitioning the keys above a guess.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels.threads import as_array, compiled, on_threads

ROWS_PER_SAMPLE = 16
CAUTION = 0.8  # of a k-th largest seen elsewhere: a guess low enough for most rows
BUCKETS = 2048
SHIFTS = (20, 9, 0)  # 11 bits, 11 bits, and the last 9 with two that are known by then
NAN_KEY = np.int32(0x7FFFFFFF)
FEW = 40  # up to that k a sorted list is quicker than the buckets, which cost 6144 steps a row


def select_topk(pre_acts: Float[Tensor, "B F"], k: int) -> tuple[Tensor, Tensor]:
    values = torch.empty(pre_acts.shape[0], k)
    indices = torch.empty(pre_acts.shape[0], k, dtype=torch.int64)
    arrays = (as_array(pre_acts), k, values.numpy(), indices.numpy())
    on_threads(_topk_loop, *arrays)
    return values, indices


def kth_largest(pre_acts: Float[Tensor, "B F"], n: int) -> Float[Tensor, ""]:
    # Some of the rows show above which value it lies; if that leaves too few, all are searched.
    array = as_array(pre_acts)
    some = array[::ROWS_PER_SAMPLE]
    guess = CAUTION * _as_value(_kth(_keys_above(some, 0.0), max(1, n * len(some) // len(array))))
    least = guess if math.isfinite(guess) else 0.0
    keys = _keys_above(array, least)
    if len(keys) < n and least:
        keys = _keys_above(array, 0.0)
    return torch.tensor(_as_value(_kth(keys, n)))


def _as_value(key: int) -> float:
    return float(np.array([key], np.int32).view(np.float32)[0])


def _kth(keys: np.ndarray, n: int) -> int:
    """Return the n-th largest of some keys, 0 if there are fewer."""
    return int(np.partition(keys, -n)[-n]) if 0 < n <= len(keys) else 0


def _keys_above(array: np.ndarray, least: float) -> np.ndarray:
    """Return the keys of all entries above a value, and of those that are NaN."""
    sizes = np.empty(len(array), np.int64)
    thresholds = np.full(array.shape[1], least, np.float32)
    on_threads(_count_above_loop, array, thresholds, sizes)
    ends = sizes.cumsum()
    keys = np.empty(ends[-1] if len(ends) else 0, np.int32)
    on_threads(_keys_above_loop, array, np.float32(least), ends, keys)
    return keys


def list_above(
    pre_acts: Float[Tensor, "B F"], thresholds: Float[Tensor, " F"]
) -> Int[Tensor, "B K"]:
    array, least = as_array(pre_acts), as_array(thresholds)
    sizes = np.empty(len(array), np.int64)
    on_threads(_count_above_loop, array, least, sizes)
    indices = torch.full((len(array), max(1, sizes.max(initial=0))), -1, dtype=torch.int64)
    on_threads(_list_above_loop, array, least, indices.numpy())
    return indices


@compiled
def _key(z):
    """Return the order of a value that is positive or NaN (which goes first: it must show)."""
    return NAN_KEY if z != z else np.float32(z).view(np.int32)


@compiled
def _kth_of(keys, k, counts):
    """Return the k-th largest of some keys, 0 if there are fewer; `keys` may be reordered."""
    if keys.size < k:
        return np.int32(0)
    if k <= FEW:
        return _kth_by_insertion(keys, k)
    n, left = keys.size, k
    for shift in SHIFTS:
        counts[:] = 0
        for e in range(n):
            counts[(keys[e] >> shift) & (BUCKETS - 1)] += 1
        bucket = BUCKETS - 1
        while counts[bucket] < left:
            left -= counts[bucket]
            bucket -= 1
        kept = 0
        for e in range(n):
            if (keys[e] >> shift) & (BUCKETS - 1) == bucket:
                keys[kept] = keys[e]
                kept += 1
        n = kept
    return keys[0]


@compiled
def _kth_by_insertion(keys, k):
    """Return the same, with the largest of the keys so far kept in order at the front."""
    for e in range(keys.size):
        key = keys[e]
        if e >= k and key <= keys[k - 1]:
            continue
        place = min(e, k - 1)
        while place > 0 and keys[place - 1] < key:
            keys[place] = keys[place - 1]
            place -= 1
        keys[place] = key
    return keys[k - 1]


@compiled
def _topk_loop(part, parts, pre_acts, k, values, indices):
    """Write the k largest positive entries of each row in order of their places, -1 after them.

    Of several that equal the k-th the first ones are taken. Only entries above a guess are looked
    at closely; it comes from the row before and is dropped where it leaves too few.
    """
    n_rows, n = pre_acts.shape
    keys, places = np.empty(n, np.int32), np.empty(n, np.int32)
    scratch, counts = np.empty(n, np.int32), np.empty(BUCKETS, np.int32)
    guess = np.float32(0)
    for r in range(part, n_rows, parts):
        row = pre_acts[r]
        least = guess if _number_above(row, guess) >= k else np.float32(0)
        found = _collect_above(row, least, keys, places)
        scratch[:found] = keys[:found]
        last = _kth_of(scratch[:found], k, counts)
        _write_largest(row, keys[:found], places, last, values[r], indices[r])
        guess = np.int32(last).view(np.float32) * np.float32(CAUTION) if last < NAN_KEY else guess


@compiled
def _number_above(row, least):
    found = 0
    for j in range(row.size):
        found += not row[j] <= least
    return found


@compiled
def _collect_above(row, least, keys, places):
    found = 0
    for j in range(row.size):
        if not row[j] <= least:
            keys[found], places[found] = _key(row[j]), j
            found += 1
    return found


@compiled
def _write_largest(row, keys, places, last, values, indices):
    """Write those above the last key, and as many that equal it as there is room for."""
    room = indices.size - np.sum(keys > last)
    written = 0
    for e in range(keys.size):
        if keys[e] > last or (keys[e] == last and room > 0):
            room -= keys[e] == last
            values[written], indices[written] = row[places[e]], places[e]
            written += 1
    values[written:], indices[written:] = 0, -1


@compiled
def _count_above_loop(part, parts, pre_acts, thresholds, sizes):
    """Count the entries of each row that exceed the thresholds, or are NaN."""
    for r in range(part, sizes.size, parts):
        found = 0
        for j in range(thresholds.size):
            found += not pre_acts[r, j] <= thresholds[j]
        sizes[r] = found


@compiled
def _list_above_loop(part, parts, pre_acts, thresholds, indices):
    """Write their places, ascending; `indices` holds -1 before."""
    for r in range(part, indices.shape[0], parts):
        written = 0
        for j in range(thresholds.size):
            if not pre_acts[r, j] <= thresholds[j]:
                indices[r, written] = j
                written += 1


@compiled
def _keys_above_loop(part, parts, pre_acts, least, ends, keys):
    """Write the keys of the entries above `least`, those of each row before its end."""
    for r in range(part, ends.size, parts):
        place = ends[r]
        for j in range(pre_acts.shape[1]):
            if not pre_acts[r, j] <= least:
                place -= 1
                keys[place] = _key(pre_acts[r, j])
