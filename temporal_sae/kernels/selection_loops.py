"""The compiled loops of `cpu_step` that choose latents: numpy arrays only.

A float32 that is not negative orders like the integer with its bits, so the k-th largest is found
by counting the leading bits, then the next ones among those that share them. Loops over rows do one
of several parts, which `threads` runs side by side.
"""

from __future__ import annotations

import numpy as np
from numba import njit

compiled = njit(nogil=True, cache=True, error_model="numpy")

BUCKETS = 2048
SHIFTS = (20, 9, 0)  # 11 bits, 11 bits, and the last 9 with two that are known by then
NAN_KEY = np.int32(0x7FFFFFFF)
CAUTION = np.float32(0.8)  # of the last row's k-th: low enough for most rows


@compiled
def _key(z):
    """The order of a value that is positive or not a number (which goes first: it must show)."""
    return NAN_KEY if z != z else np.float32(z).view(np.int32)


@compiled
def _kth_key(keys, k, counts):
    """The k-th largest of some keys, 0 if there are not that many; `keys` may be reordered."""
    if keys.size < k:
        return np.int32(0)
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
def select_topk(part, parts, pre_acts, k, values, indices):
    """The k largest positive entries of each row in order of their places; -1 where there are less.

    Of several that are equal to the k-th the first ones are taken. Only entries above a guess are
    looked at closely; it comes from the row before and is dropped where it leaves too few.
    """
    n_rows, n = pre_acts.shape
    keys, places = np.empty(n, np.int32), np.empty(n, np.int32)
    spare, counts = np.empty(n, np.int32), np.empty(BUCKETS, np.int32)
    guess = np.float32(0)
    for r in range(part, n_rows, parts):
        row = pre_acts[r]
        least = guess if _number_above(row, guess) >= k else np.float32(0)
        found = _collect_above(row, least, keys, places)
        spare[:found] = keys[:found]
        last = _kth_key(spare[:found], k, counts)
        _write_largest(row, keys[:found], places, last, values[r], indices[r])
        guess = np.int32(last).view(np.float32) * CAUTION if last < NAN_KEY else guess


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
    """Those above the last key, and as many that equal it as there is room for."""
    room = indices.size - np.sum(keys > last)
    written = 0
    for e in range(keys.size):
        if keys[e] > last or (keys[e] == last and room > 0):
            room -= keys[e] == last
            values[written], indices[written] = row[places[e]], places[e]
            written += 1
    values[written:], indices[written:] = 0, -1


@compiled
def count_keys(part, parts, pre_acts, least, prefix, above, shift, counts):
    """How many entries above `least` have each value of the 11 bits from `shift` on.

    Args:
        prefix: only entries whose bits from `above` on are these count.
        counts: [parts, BUCKETS], one sum a part.
    """
    n_rows, n = pre_acts.shape
    count = counts[part]
    for r in range(part, n_rows, parts):
        for j in range(n):
            z = pre_acts[r, j]
            if not z <= least:
                key = _key(z)
                if key >> above == prefix:
                    count[(key >> shift) & (BUCKETS - 1)] += 1


@compiled
def count_above(part, parts, pre_acts, thresholds, sizes):
    """How many entries of each row exceed the thresholds, or are not a number."""
    for r in range(part, sizes.size, parts):
        found = 0
        for j in range(thresholds.size):
            found += not pre_acts[r, j] <= thresholds[j]
        sizes[r] = found


@compiled
def list_above(part, parts, pre_acts, thresholds, indices):
    """Their places, ascending; `indices` holds -1 before."""
    for r in range(part, indices.shape[0], parts):
        written = 0
        for j in range(thresholds.size):
            if not pre_acts[r, j] <= thresholds[j]:
                indices[r, written] = j
                written += 1
