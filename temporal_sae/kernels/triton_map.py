"""The Triton kernels behind `cuda.PairMap`: an open-addressing hash table with linear probing.

`table` holds int64 keys, -1 in free slots; its size is a power of two and it is never full, so
every search ends.
"""

from __future__ import annotations

import triton
import triton.language as tl

FREE = tl.constexpr(-1)
NO_SLOT = tl.constexpr(-2)  # what no slot ever holds
GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: spreads neighbouring keys


@triton.jit
def _first_slot(key, capacity):
    """Where the search for a key starts: two rounds of multiplying and folding the halves."""
    mixed = key.to(tl.uint64) * GOLDEN
    mixed = (mixed ^ (mixed >> 32)) * GOLDEN
    return (mixed >> 32).to(tl.int64) & (capacity - 1)


@triton.jit(do_not_specialize=["size"])
def store_keys(table, stored, capacity, keys, values, size, BLOCK: tl.constexpr):
    """Set the values of distinct keys; a key of -1 is passed over."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + at, mask=at < size, other=-1)
    value = tl.load(values + at, mask=at < size, other=0.0)
    slot = _first_slot(key, capacity)
    searching = key >= 0
    while tl.max(searching.to(tl.int32), 0) > 0:
        # A lane that is done expects what no slot holds, and so changes nothing.
        expected = tl.where(searching, FREE, NO_SLOT).to(tl.int64)
        found = tl.atomic_cas(table + slot, expected, key, sem="relaxed")
        arrived = searching & ((found == FREE) | (found == key))
        tl.store(stored + slot, value, mask=arrived)
        searching = searching & (found != FREE) & (found != key)
        slot = tl.where(searching, (slot + 1) & (capacity - 1), slot)


@triton.jit(do_not_specialize=["size"])
def look_up(table, stored, capacity, keys, out, size, BLOCK: tl.constexpr):
    """The values of some keys, 0 where there is none."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + at, mask=at < size, other=-1)
    slot = _first_slot(key, capacity)
    value = tl.full((BLOCK,), 0.0, tl.float32)
    searching = key >= 0
    while tl.max(searching.to(tl.int32), 0) > 0:
        found = tl.load(table + slot, mask=searching, other=-1)
        value += tl.load(stored + slot, mask=searching & (found == key), other=0.0)
        searching = searching & (found != FREE) & (found != key)
        slot = tl.where(searching, (slot + 1) & (capacity - 1), slot)
    tl.store(out + at, value, mask=at < size)
