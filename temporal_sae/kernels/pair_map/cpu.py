"""A map from pairs to float32 on the CPU: 8 bytes per slot, about 10 bytes per pair.

A key is scrambled by a bijection of its `key_bits` bits. The upper bits of the result choose a
shard, which is thus known and need not be stored; the remaining 32 or fewer are kept in the slot.
Shards grow one by one, so that growing never needs the room of a second table, and are worked on
in parallel; inside a shard, slots are found by linear probing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels.threads import compiled, in_parts

MAX_LOAD = 0.8
GROWTH = 1.25
SMALLEST = 16
LEAST_KEYS = 2**12  # with fewer, waking a thread takes longer than the work
SHARD_BITS = 3  # at least 8 shards, for as many threads
MULTIPLIERS = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)
EMPTY = np.float32(-1)


class Sharded:
    """Keys that are spread over shards.

    Args:
        key_bits: every key is below 2^key_bits.
    """

    shards: Sequence[Any]

    def __init__(self, key_bits: int) -> None:
        self.key_bits = max(key_bits, SHARD_BITS + 1)
        self.shard_bits = max(SHARD_BITS, self.key_bits - 32)
        self.slot_bits = self.key_bits - self.shard_bits

    def __len__(self) -> int:
        return sum(shard.size for shard in self.shards)

    def _on_all_shards(self, work: Callable[[int], None], n_keys: int) -> None:
        parts = torch.get_num_threads() if n_keys >= LEAST_KEYS else 1

        def work_on(part: int) -> None:
            for n in range(part, len(self.shards), parts):
                work(n)

        in_parts(work_on, parts)

    def _by_shard(self, keys: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the order that sorts keys by shard, the content of their slots, and the starts."""
        flat = keys.reshape(-1).contiguous().numpy()
        first, second = (np.uint64(m % 2**self.key_bits | 1) for m in MULTIPLIERS)
        return _by_shard(flat, first, second, self.key_bits, self.slot_bits)

    def _keys(self, shard: int, slots: np.ndarray) -> np.ndarray:
        inverses = (
            pow(m % 2**self.key_bits | 1, -1, 2**self.key_bits) for m in reversed(MULTIPLIERS)
        )
        high = np.uint64(shard << self.slot_bits)
        return _unscramble(slots, high, *map(np.uint64, inverses), self.key_bits)


class PairMap(Sharded):
    def __init__(self, device: torch.device, key_bits: int) -> None:
        super().__init__(key_bits)
        self.shards = [_Shard(self.slot_bits) for _ in range(2**self.shard_bits)]

    @property
    def at_most(self) -> int:
        return len(self)

    def lookup(self, keys: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        order, slots, starts = self._by_shard(keys)
        values = np.zeros(len(slots), np.float32)

        def work(n: int) -> None:
            part = slice(starts[n], starts[n + 1])
            self.shards[n].lookup(slots[part], values[part])

        self._on_all_shards(work, len(slots))
        result = np.empty_like(values)
        result[order] = values
        return torch.from_numpy(result).view(keys.shape)

    def store(self, keys: Int[Tensor, " n"], values: Float[Tensor, " n"]) -> None:
        real = keys >= 0
        if not bool(real.all()):
            keys, values = keys[real], values[real]
        order, slots, starts = self._by_shard(keys)
        ordered = values.numpy()[order]

        def work(n: int) -> None:
            part = slice(starts[n], starts[n + 1])
            self.shards[n].store(slots[part], ordered[part])

        self._on_all_shards(work, len(slots))

    def pieces(self) -> Iterator[tuple[Int[Tensor, " n"], Float[Tensor, " n"]]]:
        for n, shard in enumerate(self.shards):
            slots, values = shard.items()
            yield torch.from_numpy(self._keys(n, slots)), torch.from_numpy(values)

    def items(self) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        keys, values = (torch.cat(parts) for parts in zip(*self.pieces(), strict=True))
        keys, order = keys.sort()
        return keys, values[order]

    def update_all(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        for n, shard in enumerate(self.shards):
            slots, values = shard.items()
            keys = torch.from_numpy(self._keys(n, slots))
            shard.store(slots, change(keys, torch.from_numpy(values)).numpy())

    def drop_below(self, bound: float) -> None:
        self._on_all_shards(lambda n: self.shards[n].drop_below(bound), len(self))

    def nbytes(self) -> int:
        return sum(shard.slots.nbytes + shard.values.nbytes for shard in self.shards)


class _Shard:
    """One open-addressing table; a slot is empty where its value is negative."""

    def __init__(self, slot_bits: int, capacity: int = SMALLEST) -> None:
        self.slot_bits, self.size = slot_bits, 0
        self.slots = np.zeros(capacity, np.uint32)
        self.values = np.full(capacity, EMPTY)

    def lookup(self, slots: np.ndarray, out: np.ndarray) -> None:
        _lookup(self.slots, self.values, self.slot_bits, slots, out)

    def store(self, slots: np.ndarray, values: np.ndarray) -> None:
        needed = self.size + len(slots)
        if needed > MAX_LOAD * len(self.slots):
            self._rebuild(max(int(GROWTH * len(self.slots)), int(needed / MAX_LOAD) + 1), EMPTY)
        self.size += _store(self.slots, self.values, self.slot_bits, slots, values)

    def items(self) -> tuple[np.ndarray, np.ndarray]:
        used = self.values >= 0
        return self.slots[used], self.values[used]

    def drop_below(self, bound: float) -> None:
        kept = int((self.values >= bound).sum())
        self._rebuild(max(SMALLEST, int(GROWTH * kept / MAX_LOAD)), np.float32(bound))

    def _rebuild(self, capacity: int, bound: np.float32) -> None:
        slots, values = self.slots, self.values
        kept = values >= max(bound, np.float32(0))
        self.__init__(self.slot_bits, capacity)  # type: ignore[misc]
        self.size = _store(self.slots, self.values, self.slot_bits, slots[kept], values[kept])


@compiled
def _scramble(key, first, second, bits):
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    shift = np.uint64((bits + 1) // 2)
    x = (np.uint64(key) * first) & mask
    x ^= x >> shift
    x = (x * second) & mask
    return x ^ (x >> shift)


@compiled
def _unscramble(slots, high, second, first, bits):
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    shift = np.uint64((bits + 1) // 2)
    keys = np.empty(slots.size, np.int64)
    for n in range(slots.size):
        x = high | np.uint64(slots[n])
        x ^= x >> shift
        x = (x * second) & mask
        x ^= x >> shift
        keys[n] = np.int64((x * first) & mask)
    return keys


@compiled
def _by_shard(keys, first, second, bits, slot_bits):
    starts = np.zeros((1 << (bits - slot_bits)) + 1, np.int64)
    scrambled = np.empty(keys.size, np.uint64)
    for n in range(keys.size):
        scrambled[n] = _scramble(keys[n], first, second, bits)
        starts[(scrambled[n] >> np.uint64(slot_bits)) + np.uint64(1)] += 1
    for s in range(starts.size - 1):
        starts[s + 1] += starts[s]
    free = starts.copy()
    order = np.empty(keys.size, np.int64)
    slots = np.empty(keys.size, np.uint32)
    low = (np.uint64(1) << np.uint64(slot_bits)) - np.uint64(1)
    for n in range(keys.size):
        shard = scrambled[n] >> np.uint64(slot_bits)
        order[free[shard]] = n
        slots[free[shard]] = scrambled[n] & low
        free[shard] += 1
    return order, slots, starts


@compiled
def _place(slots, values, slot_bits, slot):
    """Return the slot that holds a key, or the empty slot where it belongs."""
    place = np.int64((np.uint64(slot) * np.uint64(slots.size)) >> np.uint64(slot_bits))
    while values[place] >= 0 and slots[place] != slot:
        place += 1
        if place == slots.size:
            place = np.int64(0)
    return place


@compiled
def _lookup(slots, values, slot_bits, wanted, out):
    for n in range(wanted.size):
        out[n] = max(values[_place(slots, values, slot_bits, wanted[n])], np.float32(0))


@compiled
def _store(slots, values, slot_bits, new_slots, new_values):
    added = 0
    for n in range(new_slots.size):
        place = _place(slots, values, slot_bits, new_slots[n])
        if values[place] < 0:
            added += 1
        slots[place] = new_slots[n]
        values[place] = new_values[n]
    return added
