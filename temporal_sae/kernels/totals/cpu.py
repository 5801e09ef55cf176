"""Totals of pairs in numba, on torch's threads: packed rows, or a hash map of 24 bytes a slot."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae.kernels.pair_map.cpu import GROWTH, MAX_LOAD, SMALLEST, Sharded
from temporal_sae.kernels.threads import compiled, on_threads
from temporal_sae.kernels.windows.cpu import WindowIndex

SLOT, COUNT, SQUARE = range(3)  # of a row of the map
BLOCK = 64  # pairs looked at together; skipped when none of them occurred
SCAN_FROM = 128  # a row is scanned, not walked, when it has 1 increment for this many pairs


def add_dense(
    counts: Int[Tensor, " pairs"],
    squares: Int[Tensor, " pairs"],
    lo: int,
    hi: int,
    window: WindowIndex,
) -> None:
    totals = counts.numpy(), squares.numpy()
    on_threads(_add_rows, *totals, lo, hi, window.lists(), window.counter())


class TotalsMap(Sharded):
    def __init__(self, device: torch.device, key_bits: int) -> None:
        super().__init__(key_bits)
        self.shards = [_Shard(self.slot_bits) for _ in range(2**self.shard_bits)]

    def add(
        self, keys: Int[Tensor, " n"], counts: Int[Tensor, " n"], squares: Int[Tensor, " n"]
    ) -> None:
        order, slots, starts = self._by_shard(keys)
        totals = counts.numpy(), squares.numpy()

        def work(n: int) -> None:
            part = slice(starts[n], starts[n + 1])
            self.shards[n].add(slots[part], *(column[order[part]] for column in totals))

        self._on_all_shards(work, len(slots))

    def lookup(self, keys: Int[Tensor, "*n"]) -> tuple[Int[Tensor, "*n"], Int[Tensor, "*n"]]:
        order, slots, starts = self._by_shard(keys)
        found = np.empty((len(slots), 2), np.int64)

        def work(n: int) -> None:
            part = slice(starts[n], starts[n + 1])
            shard = self.shards[n]
            _lookup(shard.table, shard.slot_bits, slots[part], found[part])

        self._on_all_shards(work, len(slots))
        result = torch.empty(found.shape, dtype=torch.int64)
        result[torch.from_numpy(order)] = torch.from_numpy(found)
        counts, squares = result.T.contiguous().view(2, *keys.shape)
        return counts, squares

    def pieces(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for n, shard in enumerate(self.shards):
            slots, counts, squares = (torch.from_numpy(column) for column in shard.items())
            yield torch.from_numpy(self._keys(n, slots.numpy())), counts, squares

    def nbytes(self) -> int:
        return sum(shard.table.nbytes for shard in self.shards)


class _Shard:
    """One open-addressing table of (slot, count, square); one without a count is empty."""

    def __init__(self, slot_bits: int) -> None:
        self.slot_bits, self.size = slot_bits, 0
        self.table = np.zeros((SMALLEST, 3), np.int64)

    def add(self, slots: np.ndarray, counts: np.ndarray, squares: np.ndarray) -> None:
        needed, capacity = self.size + len(slots), len(self.table)
        if needed > MAX_LOAD * capacity:
            before = self.items()
            capacity = max(int(GROWTH * capacity), int(needed / MAX_LOAD) + 1)
            self.table = np.zeros((capacity, 3), np.int64)
            _add(self.table, self.slot_bits, *before)
        self.size += _add(self.table, self.slot_bits, slots, counts, squares)

    def items(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        slots, counts, squares = self.table[self.table[:, COUNT] > 0].T
        return slots.astype(np.uint32), counts.copy(), squares.copy()


@compiled
def _add_rows(part, parts, counts, squares, lo, hi, window, counter):
    """Add the counts of a window to packed rows, each row by one part."""
    n_latents = window[2].size - 1
    base = lo * n_latents - lo * (lo + 1) // 2
    own = np.zeros(n_latents, counter.dtype)
    for i in range(lo + part, hi, parts):
        first = i * n_latents - i * (i + 1) // 2 - base
        last = first + n_latents - i - 1
        _add_row(window, i, own[: last - first], counts[first:last], squares[first:last])


@compiled
def _add_row(window, i, own, counts, squares):
    """Add one row; `own` is all 0 before and after."""
    rows, sizes, starts, tokens, slots = window
    total = 0
    one = own.dtype.type(1)
    for e in range(starts[i], starts[i + 1]):
        row = rows[tokens[e]]
        for p in range(slots[e] + 1, sizes[tokens[e]]):
            own[np.uint32(row[p] - i - 1)] += one
        total += sizes[tokens[e]] - slots[e] - 1
    if total * SCAN_FROM > own.size:
        for a in range(0, own.size, BLOCK):
            block = own[a : a + BLOCK]
            if _any(block):
                _add_all(block, counts[a : a + BLOCK], squares[a : a + BLOCK])
                block[:] = 0
        return
    for e in range(starts[i], starts[i + 1]):
        row = rows[tokens[e]]
        for p in range(slots[e] + 1, sizes[tokens[e]]):
            q = row[p] - i - 1
            if own[q]:
                _add_all(own[q : q + 1], counts[q : q + 1], squares[q : q + 1])
                own[q] = 0


@compiled
def _add_all(own, counts, squares):
    for q in range(own.size):
        n = np.int64(own[q])
        counts[q] += n
        squares[q] += n * n


@compiled
def _any(own):
    seen = own.dtype.type(0)
    for q in range(own.size):
        seen |= own[q]
    return seen != 0


@compiled
def _place(table, slot_bits, slot):
    """Return the row that holds a key, or the empty row where it belongs."""
    place = np.int64((np.uint64(slot) * np.uint64(len(table))) >> np.uint64(slot_bits))
    while table[place, COUNT] > 0 and table[place, SLOT] != slot:
        place += 1
        if place == len(table):
            place = np.int64(0)
    return place


@compiled
def _add(table, slot_bits, slots, counts, squares):
    """Add to totals; returns how many are new."""
    n_new = 0
    for n in range(slots.size):
        row = table[_place(table, slot_bits, slots[n])]
        n_new += row[COUNT] == 0
        row[SLOT] = slots[n]
        row[COUNT] += counts[n]
        row[SQUARE] += squares[n]
    return n_new


@compiled
def _lookup(table, slot_bits, slots, out):
    for n in range(slots.size):
        row = table[_place(table, slot_bits, slots[n])]
        out[n, 0], out[n, 1] = row[COUNT], row[SQUARE]
