"""A map from pairs to float32 for CUDA: an open-addressing hash table, 12 bytes a slot.

Its size is a power of two and doubles at the latest when 60 % of the slots are in use, so that a
key takes 20 to 60 bytes. How many keys there are only the device knows. The host keeps a number
that is never too low, and asks, which waits, only when that one would overfill the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels import triton_map
from temporal_sae.kernels.triton_launch import BLOCK, launch, n_blocks

MAX_LOAD = 0.6
SMALLEST = 2**10
STORES_AHEAD = 4  # stores like the present one that fit before the keys are counted again
SLOTS_AT_ONCE = 2**24


class PairMap:
    """See `plain.PairMap`."""

    def __init__(self, device: torch.device, key_bits: int) -> None:
        self.device = torch.device(device)
        self.at_most = 0  # see `plain.PairMap.at_most`
        self._allocate(SMALLEST)

    def _allocate(self, capacity: int) -> None:
        self._keys = torch.full((capacity,), -1, dtype=torch.int64, device=self.device)
        self._values = torch.zeros(capacity, device=self.device)

    def __len__(self) -> int:
        return int((self._keys >= 0).sum())

    def lookup(self, keys: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """See `plain.PairMap.lookup`."""
        values = torch.empty(keys.shape, device=self.device)
        self._run(triton_map.look_up, keys, values)
        return values

    def store(self, keys: Int[Tensor, " n"], values: Float[Tensor, " n"]) -> None:
        """See `plain.PairMap.store`."""
        self._make_room(len(keys))
        self._insert(keys, values)
        self.at_most += len(keys)

    def _insert(self, keys: Tensor, values: Tensor) -> None:
        self._run(triton_map.store_keys, keys, values)

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
        """See `plain.PairMap.items`."""
        keys, values = (torch.cat(parts) for parts in zip(*self.pieces(), strict=True))
        keys, order = keys.sort()
        return keys, values[order]

    def pieces(self) -> Iterator[tuple[Int[Tensor, " n"], Float[Tensor, " n"]]]:
        """See `plain.PairMap.pieces`."""
        for keys, values in self._parts():
            yield keys[keys >= 0], values[keys >= 0]

    def _parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(
            self._keys.split(SLOTS_AT_ONCE), self._values.split(SLOTS_AT_ONCE), strict=True
        )

    def update_all(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        """See `plain.PairMap.update_all`; free slots are shown as key 0 with value 0."""
        for keys, values in self._parts():
            changed = change(keys.clamp(min=0), values)
            values.copy_(torch.where(keys >= 0, changed, 0.0))

    def drop_below(self, bound: float) -> None:
        """See `plain.PairMap.drop_below`."""
        self._rebuild(len(self._keys), torch.where(self._values >= bound, self._keys, -1))
        self.at_most = len(self)

    def nbytes(self) -> int:
        """See `plain.PairMap.nbytes`."""
        return self._keys.nbytes + self._values.nbytes
