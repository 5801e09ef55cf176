"""A map from pairs to float32 for CUDA: an open-addressing hash table, 12 bytes a slot.

Its size is a power of two and doubles at the latest when 60 % of the slots are in use, so that a
key takes 20 to 60 bytes. How many keys there are only the device knows. The host keeps a number
that is never too low, and asks, which waits, only when that one would overfill the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels.triton_launch import BLOCK, launch, n_blocks

MAX_LOAD = 0.6
SMALLEST = 2**10
STORES_AHEAD = 4  # stores like the present one that fit before the keys are counted again
SLOTS_AT_ONCE = 2**24


class PairMap:
    def __init__(self, device: torch.device, key_bits: int) -> None:
        self.device = torch.device(device)
        self.at_most = 0
        self._allocate(SMALLEST)

    def _allocate(self, capacity: int) -> None:
        self._keys = torch.full((capacity,), -1, dtype=torch.int64, device=self.device)
        self._values = torch.zeros(capacity, device=self.device)

    def __len__(self) -> int:
        return int((self._keys >= 0).sum())

    def lookup(self, keys: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        values = torch.empty(keys.shape, device=self.device)
        self._run(_look_up_kernel, keys, values)
        return values

    def store(self, keys: Int[Tensor, " n"], values: Float[Tensor, " n"]) -> None:
        self._make_room(len(keys))
        self._insert(keys, values)
        self.at_most += len(keys)

    def _insert(self, keys: Tensor, values: Tensor) -> None:
        self._run(_store_kernel, keys, values)

    def _run(self, kernel: Any, keys: Tensor, values: Tensor) -> None:
        table = (self._keys, self._values, len(self._keys))
        listed = (keys.long().contiguous(), values.contiguous(), keys.numel())
        launch(kernel, n_blocks(keys), *table, *listed, BLOCK=BLOCK)

    def _make_room(self, n_new: int) -> None:
        capacity = len(self._keys)
        if self.at_most + n_new <= MAX_LOAD * capacity:
            return
        self.at_most = len(self)
        ahead = min(STORES_AHEAD * n_new, self.at_most // 2)
        while self.at_most + n_new + ahead > MAX_LOAD * capacity:
            capacity *= 2
        if capacity > len(self._keys):
            self._rebuild(capacity, self._keys)

    def _rebuild(self, capacity: int, keys: Tensor) -> None:
        """Insert the keys of this table, those that are not -1, into a new one."""
        values = self._values
        self._allocate(capacity)
        self._insert(keys, values)

    def items(self) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        keys, values = (torch.cat(parts) for parts in zip(*self.pieces(), strict=True))
        keys, order = keys.sort()
        return keys, values[order]

    def pieces(self) -> Iterator[tuple[Int[Tensor, " n"], Float[Tensor, " n"]]]:
        for keys, values in self._parts():
            yield keys[keys >= 0], values[keys >= 0]

    def _parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(
            self._keys.split(SLOTS_AT_ONCE), self._values.split(SLOTS_AT_ONCE), strict=True
        )

    def update_all(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        # Free slots are shown to `change` as key 0 with value 0.
        for keys, values in self._parts():
            changed = change(keys.clamp(min=0), values)
            values.copy_(torch.where(keys >= 0, changed, 0.0))

    def drop_below(self, bound: float) -> None:
        self._rebuild(len(self._keys), torch.where(self._values >= bound, self._keys, -1))
        self.at_most = len(self)

    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes


FREE = tl.constexpr(-1)
NO_SLOT = tl.constexpr(-2)  # what no slot ever holds
GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: spreads neighbouring keys


@triton.jit
def _first_slot(key, capacity):
    """Return where the search for a key starts: twice multiplied, halves folded."""
    mixed = key.to(tl.uint64) * GOLDEN
    mixed = (mixed ^ (mixed >> 32)) * GOLDEN
    return (mixed >> 32).to(tl.int64) & (capacity - 1)


@triton.jit(do_not_specialize=["size"])
def _store_kernel(table, stored, capacity, keys, values, size, BLOCK: tl.constexpr):
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
def _look_up_kernel(table, stored, capacity, keys, out, size, BLOCK: tl.constexpr):
    """Write the values of some keys, 0 where there is none."""
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
