"""Plain totals of all pairs over closed windows: exact counts, where averages forget.

From n_ij, n_i and N follow all statistics of `temporal_sae.atlas.statistics`, and from Σ n_ij² over
windows how much a pair's count varies: Fano factor and overdispersion. From Σ n_i² the same follows
for a latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.distributed import all_reduce_sum, gather_to_rank_zero, is_rank_zero
from temporal_sae.tracker.checks import check_pair
from temporal_sae.tracker.moments import mean_and_variance
from temporal_sae.tracker.saved import check_rows, latents_of
from temporal_sae.tracker.totals_storage import DenseTotals, SparseTotals, Storage
from temporal_sae.tracker.window import Window

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
        sharded: every process holds some rows, and all answer together.

    Attributes:
        n: tokens in which each latent was active, int64 [F].
        own_squares: Σ over windows of the square of a latent's count in it, int64 [F]; None after
            going on from a state of an earlier version, which lacks it.
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
        sharded: bool = False,
    ) -> None:
        self.n_latents, self.first_token, self.sharded = n_latents, first_token, sharded
        self.storage, self.rows = storage, rows
        self.n = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.own_squares: Int[Tensor, " F"] | None = torch.zeros_like(self.n)
        self._pair_sum = torch.zeros((), dtype=torch.int64, device=device)
        self.n_tokens = self.n_windows = 0

    def add(self, window: Window, first_token: int) -> None:
        """Add a window whose first token has that number, if it is not too early."""
        if first_token < self.first_token:
            return
        own = latent_counts(window.rows, self.n_latents)
        self.n += own
        if self.own_squares is not None:
            self.own_squares += own * own
        self._pair_sum += window.total()
        self.storage.add(window)
        self.n_tokens += window.n_tokens
        self.n_windows += 1

    def counts(self, i: Tensor, j: Tensor) -> tuple[Int[Tensor, "*n"], Int[Tensor, "*n"]]:
        """Return n_ij and Σ n_ij² of some pairs, in any order; n_i and 0 where i = j.

        Raises:
            ValueError: for i or j of another kind, or on different devices.
        """
        check_pair(i, j, self.n_latents)
        n, squares = self.checked_counts(i.to(self.n.device), j.to(self.n.device))
        return n.to(i.device), squares.to(i.device)

    def checked_counts(self, i: Tensor, j: Tensor) -> tuple[Int[Tensor, "*n"], Int[Tensor, "*n"]]:
        """Return the same of pairs that are known to be right, on the device of the totals."""
        i, j = i.long(), j.long()
        n, squares = self.storage.lookup(torch.minimum(i, j), torch.maximum(i, j))
        if self.sharded:  # one shard may have all rows, and has to take part all the same
            n, squares = all_reduce_sum(torch.stack((n, squares)))
        same = i == j
        return torch.where(same, self.n[i], n), squares.masked_fill(same, 0)

    def of_rows(self, lo: int, hi: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Return n_ij and Σ n_ij² of `upper_pairs` of some rows; not to be written to."""
        n, squares = self.storage.rows(lo, hi)
        if self.sharded:
            n, squares = all_reduce_sum(torch.stack((n, squares)))
        return n, squares

    def density(self) -> Float[Tensor, " F"]:
        """Return p = n / N, float64; NaN before the first window."""
        return self.n.double() / self.n_tokens

    def long_rate_sum(self) -> Float[Tensor, ""]:
        """Return Σ_{i<j} n_ij / N, float64."""
        return self._pair_sum.double() / self.n_tokens

    def fano(self) -> Float[Tensor, " F"]:
        """Return variance over mean of each latent's count in a window; 1 for a Poisson process.

        Float64; NaN for a latent that was never active, and before the second window.

        Raises:
            ValueError: see `own_squares`.
        """
        mean, variance = self._own_moments()
        return variance / mean

    def burstiness(self) -> Float[Tensor, " F"]:
        """Return D_ii, by which each latent's count varies: variance = μ + D_ii μ².

        Float64; negative by chance where D_ii is 0; NaN where `fano` is.

        Raises:
            ValueError: see `own_squares`.
        """
        mean, variance = self._own_moments()
        return (variance - mean) / mean**2

    def _own_moments(self) -> tuple[Tensor, Tensor]:
        if self.own_squares is None:
            raise ValueError(
                "totals: come of a state of an earlier version, without squares of latents"
            )
        if self.n_windows < 2:
            nothing = torch.full_like(self.n, torch.nan, dtype=torch.float64)
            return nothing, nothing
        return mean_and_variance(self.n.double(), self.own_squares.double(), self.n_windows)

    def pairs(self, min_count: int = 1) -> Iterator[PairTotals]:
        """Yield the pairs of this process that were together that often, by i and then j."""
        for keys, n, squares in self.storage.pieces():
            kept = n >= min_count
            yield PairTotals(*latents_of(keys[kept], self.n_latents), n[kept], squares[kept])

    def nbytes(self) -> int:
        """Bytes held."""
        own = self.n, self.own_squares
        return self.storage.nbytes() + sum(part.nbytes for part in own if part is not None)

    def state_dict(self) -> dict[str, Any]:
        """Return the pairs as a list, which any storage can load."""
        parts = zip(*self.storage.pieces(), strict=True)
        pairs = dict(zip(COLUMNS, map(torch.cat, parts), strict=True))
        lo, hi = self.rows
        counts: dict[str, Any] = {
            "n_tokens": self.n_tokens,
            "n_windows": self.n_windows,
            "n": self.n,
        }
        if self.own_squares is not None:
            counts["own_squares"] = self.own_squares
        return {**counts, "pair_sum": self._pair_sum, "lo": lo, "hi": hi, **pairs}

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
        squares_of_latents = state.get("own_squares")
        if squares_of_latents is not None:
            squares_of_latents = squares_of_latents.to(self.n.device, copy=True)
        self.own_squares = squares_of_latents
        # A state of an earlier version lacks it, and holds all pairs.
        self._pair_sum = state.get("pair_sum", n.sum()).to(self.n.device, copy=True)
        self.n_tokens, self.n_windows = int(state["n_tokens"]), int(state["n_windows"])


def latent_counts(rows: Int[Tensor, "W K"], n_latents: int) -> Int[Tensor, " F"]:
    """Return the tokens in which each latent is active, int64; -1 marks an empty slot."""
    latents = rows.flatten().long()
    counts = torch.zeros(n_latents, dtype=torch.int64, device=rows.device)
    return counts.index_add_(0, latents.clamp(min=0), (latents >= 0).long())


def whole_totals(own: dict[str, Any], n_latents: int) -> dict[str, Any]:
    """Return the totals of all shards, which follow each other by rank, for the first process."""
    parts = {name: gather_to_rank_zero(own[name]) for name in COLUMNS}
    if not is_rank_zero():
        return own
    columns = {name: torch.cat(parts[name]) for name in COLUMNS}
    return {**own, **columns, "lo": 0, "hi": n_latents}


def new_totals(
    storage: str,
    n_latents: int,
    first_token: int,
    rows: tuple[int, int],
    device: torch.device,
    sharded: bool = False,
) -> Totals:
    """Return totals of no window yet.

    Args:
        storage: `dense`, `sparse`, or `reference`, which is dense here.
        n_latents, first_token, rows, device, sharded: see `Totals`.
    """
    kind = SparseTotals if storage == "sparse" else DenseTotals
    held = kind(n_latents, device, rows)
    return Totals(n_latents, first_token, held, rows, device, sharded)
