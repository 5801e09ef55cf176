"""Plain totals of all pairs over closed windows: exact counts, where averages forget.

From n_ij, n_i and N follow all statistics of `temporal_sae.atlas.statistics`, and from Σ n_ij² over
windows how much a pair's count varies: Fano factor and overdispersion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae.distributed import all_reduce_sum, gather_to_rank_zero, is_rank_zero
from temporal_sae.kernels import totals as kernels
from temporal_sae.kernels.averages import pairs_before
from temporal_sae.tracker.checks import check_pair
from temporal_sae.tracker.saved import check_rows, key_bits, latents_of, pairs_at
from temporal_sae.tracker.window import Window

PAIRS_AT_ONCE = 2**22
COLUMNS = ("keys", "counts", "squares")


class PairTotals(NamedTuple):
    """Totals of pairs i < j, int64.

    Attributes:
        i, j: the latents.
        n: tokens in which both were active.
        squares: Σ over windows of the square of their count in it.
    """

    i: Int[Tensor, " n"]
    j: Int[Tensor, " n"]
    n: Int[Tensor, " n"]
    squares: Int[Tensor, " n"]


class Storage(Protocol):
    """Totals of the pairs i < j with lo <= i < hi, by keys i · 2^bits + j."""

    def add(self, window: Window) -> None: ...
    def insert(self, keys: Tensor, n: Tensor, squares: Tensor) -> None: ...
    def lookup(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]: ...
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
        held = (i >= self.lo) & (i < self.hi)
        if not len(self.n):
            return torch.zeros_like(i), torch.zeros_like(i)
        places = torch.where(held, self._places(i, j), 0)
        return self.n[places] * held, self.squares[places] * held

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
        self.lo, self.hi = rows
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

    def pieces(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the pairs that were together, in order."""
        keys, n, squares = (torch.cat(parts) for parts in zip(*self.map.pieces(), strict=True))
        keys, order = keys.sort()
        columns = (column.split(PAIRS_AT_ONCE) for column in (keys, n[order], squares[order]))
        yield from zip(*columns, strict=True)

    def nbytes(self) -> int:
        """Bytes held."""
        return self.map.nbytes()


class Totals:
    """Sums over all windows since a token.

    With several processes all have the tokens of all, so their totals are equal; where the tracker
    is sharded, each keeps the pairs of its rows.

    Args:
        n_latents: F.
        first_token: of the first window at the earliest, by its number in the stream.
        storage: of the pairs.
        rows: lo and hi that it holds.
        device: where n lives.

    Attributes:
        n: tokens in which each latent was active, int64 [F].
        n_tokens: N.
        n_windows: of which they are.
    """

    def __init__(
        self,
        n_latents: int,
        first_token: int,
        storage: Storage,
        rows: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.n_latents, self.first_token = n_latents, first_token
        self.storage, self.rows = storage, rows
        self.n = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.n_tokens = self.n_windows = 0

    def add(self, window: Window, first_token: int) -> None:
        """Add a window whose first token has that number, if it is not too early."""
        if first_token < self.first_token:
            return
        latents = window.rows.flatten().long()
        self.n.index_add_(0, latents.clamp(min=0), (latents >= 0).long())
        self.storage.add(window)
        self.n_tokens += window.n_tokens
        self.n_windows += 1

    def counts(self, i: Tensor, j: Tensor) -> tuple[Int[Tensor, "*n"], Int[Tensor, "*n"]]:
        """Return n_ij and Σ n_ij² of some pairs, in any order; n_i and 0 where i = j.

        Raises:
            ValueError: for i or j of another kind, or on different devices.
        """
        check_pair(i, j, self.n_latents)
        device, i, j = i.device, i.to(self.n.device).long(), j.to(self.n.device).long()
        low, high = torch.minimum(i, j), torch.maximum(i, j)
        found = torch.stack(self.storage.lookup(low, high))
        if self.rows != (0, self.n_latents):
            found = all_reduce_sum(found)
        n, squares = torch.where(i == j, 0, found)
        return torch.where(i == j, self.n[i], n).to(device), squares.to(device)

    def pairs(self, min_count: int = 1) -> Iterator[PairTotals]:
        """Yield the pairs of this process that were together that often, by i and then j."""
        for keys, n, squares in self.storage.pieces():
            kept = n >= min_count
            yield PairTotals(*latents_of(keys[kept], self.n_latents), n[kept], squares[kept])

    def nbytes(self) -> int:
        """Bytes held."""
        return self.storage.nbytes() + self.n.nbytes

    def state_dict(self) -> dict[str, Any]:
        """Return the pairs as a list, which any storage can load."""
        parts = zip(*self.storage.pieces(), strict=True)
        pairs = dict(zip(COLUMNS, map(torch.cat, parts), strict=True))
        lo, hi = self.rows
        counts = {"n_tokens": self.n_tokens, "n_windows": self.n_windows, "n": self.n}
        return {**counts, "lo": lo, "hi": hi, **pairs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore, from totals that hold these rows.

        Raises:
            ValueError: they are of other rows of a shard.
        """
        lo, hi = self.rows
        check_rows(state, lo, hi)
        keys, n, squares = (state[name].to(self.n.device) for name in COLUMNS)
        i, _ = latents_of(keys, self.n_latents)
        held = (i >= lo) & (i < hi)
        self.storage.insert(keys[held], n[held], squares[held])
        self.n = state["n"].to(self.n.device, copy=True)
        self.n_tokens, self.n_windows = int(state["n_tokens"]), int(state["n_windows"])


def whole_totals(own: dict[str, Any], n_latents: int) -> dict[str, Any]:
    """Return the totals of all shards, which follow each other by rank, for the first process."""
    parts = {name: gather_to_rank_zero(own[name]) for name in COLUMNS}
    if not is_rank_zero():
        return own
    columns = {name: torch.cat(parts[name]) for name in COLUMNS}
    return {**own, **columns, "lo": 0, "hi": n_latents}


def new_totals(
    storage: str, n_latents: int, first_token: int, rows: tuple[int, int], device: torch.device
) -> Totals:
    """Return totals of no window yet.

    Args:
        storage: `dense`, `sparse`, or `reference`, which is dense here.
        n_latents, first_token, rows, device: see `Totals`.
    """
    kind = SparseTotals if storage == "sparse" else DenseTotals
    return Totals(n_latents, first_token, kind(n_latents, device, rows), rows, device)
