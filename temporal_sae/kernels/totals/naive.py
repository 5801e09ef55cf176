"""Totals of pairs in plain torch: the meaning of the operations of this group, exact in int64.

A total is Σ n_ij over windows, and with it goes Σ n_ij²: the first over the second says how much a
pair's count varies from window to window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae.kernels.windows.naive import WindowIndex, count_rows

PAIRS_AT_ONCE = 2**22
LEAST_PENDING = 2**20


def add_dense(
    counts: Int[Tensor, " pairs"],
    squares: Int[Tensor, " pairs"],
    lo: int,
    hi: int,
    window: WindowIndex,
) -> None:
    """Add the counts of a window, and their squares, to packed rows `lo` to `hi`, in place."""
    add_by(count_rows, counts, squares, lo, hi, window)


def add_by(
    count: Callable[[Any, int, int], Tensor],
    counts: Tensor,
    squares: Tensor,
    lo: int,
    hi: int,
    window: Any,
) -> None:
    """Do the same with a given way to count the pairs of some rows of a window."""
    n_latents = window.n_latents
    size = max(1, PAIRS_AT_ONCE // n_latents)
    done = 0
    for start in range(lo, hi, size):
        end = min(start + size, hi)
        i, j = torch.triu_indices(end - start, n_latents, start + 1, device=counts.device)
        n = count(window, start, end)[i, j].long()
        counts[done : done + len(n)] += n
        squares[done : done + len(n)] += n * n
        done += len(n)


class TotalsMap:
    """Totals of the pairs that occurred: int64 keys ≥ 0 in order, and those that came since.

    Args:
        device: where keys and totals live.
        key_bits: every key is below 2^key_bits.
    """

    def __init__(self, device: torch.device, key_bits: int) -> None:
        self.keys, self.counts, self.squares = (
            torch.empty(0, dtype=torch.int64, device=device) for _ in range(3)
        )
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._n_pending = 0

    def add(
        self, keys: Int[Tensor, " n"], counts: Int[Tensor, " n"], squares: Int[Tensor, " n"]
    ) -> None:
        """Add to the totals of distinct keys, new ones or not; counts are above 0."""
        self._pending.append((keys, counts, squares))
        self._n_pending += len(keys)
        # To sort everything in with every window would cost more the more there is.
        if self._n_pending > max(LEAST_PENDING, len(self.keys) // 2):
            self._sort_in()

    def _sort_in(self) -> None:
        parts = zip((self.keys, self.counts, self.squares), *self._pending, strict=True)
        keys, *totals = (torch.cat(column) for column in parts)
        self.keys, place = keys.unique(return_inverse=True)
        self.counts, self.squares = (
            torch.zeros_like(self.keys).index_add_(0, place, total) for total in totals
        )
        self._pending, self._n_pending = [], 0

    def lookup(self, keys: Int[Tensor, "*n"]) -> tuple[Int[Tensor, "*n"], Int[Tensor, "*n"]]:
        """Return the totals of some keys, counts and squares, 0 where there are none."""
        self._sort_in()
        if not len(self.keys):
            return torch.zeros_like(keys), torch.zeros_like(keys)
        place = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        is_there = self.keys[place] == keys
        return self.counts[place] * is_there, self.squares[place] * is_there

    def pieces(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield all keys with their counts and squares, some at a time, in no order."""
        self._sort_in()
        yield self.keys, self.counts, self.squares

    def nbytes(self) -> int:
        """Return the bytes held."""
        columns = [self.keys, self.counts, self.squares, *(t for p in self._pending for t in p)]
        return sum(column.nbytes for column in columns)
