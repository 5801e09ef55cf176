"""Storages of the totals of pairs: packed triangles, or a map of the pairs that were together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from temporal_sae.kernels import totals as kernels
from temporal_sae.kernels.averages import pairs_before
from temporal_sae.tracker.saved import key_bits, latents_of, pairs_at, upper_pairs
from temporal_sae.tracker.window import Window

PAIRS_AT_ONCE = 2**22


class Storage(Protocol):
    """Totals of the pairs i < j with lo <= i < hi, by keys i · 2^bits + j."""

    def add(self, window: Window) -> None: ...
    def insert(self, keys: Tensor, n: Tensor, squares: Tensor) -> None: ...
    def lookup(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]: ...
    def rows(self, lo: int, hi: int) -> tuple[Tensor, Tensor]: ...
    def pieces(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]: ...
    def nbytes(self) -> int: ...


class DenseTotals:
    """Two packed triangles of int64, 8 F² bytes.

    Args:
        n_latents: F.
        device: where they live.
        rows: lo and hi.
    """

    def __init__(self, n_latents: int, device: torch.device, rows: tuple[int, int]) -> None:
        self.n_latents, (self.lo, self.hi) = n_latents, rows
        self._first = pairs_before(n_latents, self.lo)
        n_pairs = pairs_before(n_latents, self.hi) - self._first
        self.n, self.squares = (
            torch.zeros(n_pairs, dtype=torch.int64, device=device) for _ in range(2)
        )

    def add(self, window: Window) -> None:
        """Add the counts of a window."""
        kernels.add_dense(self.n, self.squares, self.lo, self.hi, window.index)

    def _places(self, i: Tensor, j: Tensor) -> Tensor:
        return i * self.n_latents - i * (i + 1) // 2 - i - 1 + j - self._first

    def insert(self, keys: Tensor, n: Tensor, squares: Tensor) -> None:
        """Add totals of rows that are held."""
        places = self._places(*latents_of(keys, self.n_latents))
        self.n[places] += n
        self.squares[places] += squares

    def lookup(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Return the totals of pairs i < j; 0 for rows that are not held."""
        if not len(self.n):
            return torch.zeros_like(i), torch.zeros_like(i)
        if (self.lo, self.hi) == (0, self.n_latents):
            places = self._places(i, j)
            return self.n[places], self.squares[places]
        held = (i >= self.lo) & (i < self.hi)
        places = torch.where(held, self._places(i, j), 0)
        return self.n[places] * held, self.squares[places] * held

    def rows(self, lo: int, hi: int) -> tuple[Tensor, Tensor]:
        """Return the totals of `upper_pairs` of some rows."""
        if not self.lo <= lo <= hi <= self.hi:
            return self.lookup(*upper_pairs(lo, hi, self.n_latents, self.n.device))
        first, last = (pairs_before(self.n_latents, row) - self._first for row in (lo, hi))
        return self.n[first:last], self.squares[first:last]

    def pieces(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the pairs that were together, in order."""
        bits = key_bits(self.n_latents)
        parts = zip(self.n.split(PAIRS_AT_ONCE), self.squares.split(PAIRS_AT_ONCE), strict=True)
        for number, (n, squares) in enumerate(parts):
            places = n.nonzero().squeeze(1)
            absolute = places + number * PAIRS_AT_ONCE
            i, j = pairs_at(absolute, self.n_latents, self.lo, self.hi)
            yield (i << bits) | j, n[places], squares[places]

    def nbytes(self) -> int:
        """Bytes held."""
        return self.n.nbytes + self.squares.nbytes


class SparseTotals:
    """Totals of the pairs that were together, about 35 bytes each on the CPU.

    Args: as of `DenseTotals`.
    """

    def __init__(self, n_latents: int, device: torch.device, rows: tuple[int, int]) -> None:
        self.n_latents, self.device, (self.lo, self.hi) = n_latents, device, rows
        self.bits = key_bits(n_latents)
        self.map = kernels.TotalsMap(device, 2 * self.bits)

    def add(self, window: Window) -> None:
        """Add the counts of a window."""
        for i, j, n in window.pairs():
            real = (n > 0) & (i >= self.lo) & (i < self.hi)
            if not bool(real.all()):
                i, j, n = i[real], j[real], n[real]
            counts = n.long()
            self.map.add((i.long() << self.bits) | j, counts, counts * counts)

    def insert(self, keys: Tensor, n: Tensor, squares: Tensor) -> None:
        """Add totals of rows that are held."""
        self.map.add(keys, n, squares)

    def lookup(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Return the totals of pairs i < j; 0 for rows that are not held."""
        return self.map.lookup((i << self.bits) | j)

    def rows(self, lo: int, hi: int) -> tuple[Tensor, Tensor]:
        """Return the totals of `upper_pairs` of some rows."""
        return self.lookup(*upper_pairs(lo, hi, self.n_latents, self.device))

    def pieces(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the pairs that were together, in order."""
        keys, n, squares = (torch.cat(parts) for parts in zip(*self.map.pieces(), strict=True))
        keys, order = keys.sort()
        columns = (column.split(PAIRS_AT_ONCE) for column in (keys, n[order], squares[order]))
        yield from zip(*columns, strict=True)

    def nbytes(self) -> int:
        """Bytes held."""
        return self.map.nbytes()
