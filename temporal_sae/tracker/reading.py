"""Reading a tracker: rates, averages, and weights of pairs by any weighting."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.tracker.checks import check_pair
from temporal_sae.tracker.saved import upper_pairs
from temporal_sae.tracker.state import PairState
from temporal_sae.tracker.statistics import LongCounts, PairStatistics
from temporal_sae.tracker.totals import Totals
from temporal_sae.tracker.weightings import Weighting, check_totals, find_weighting

PAIRS_AT_ONCE = 2**19  # as many as penalties ask for, so that what is kept serves both
KEPT_LATENTS = 1024  # up to 4 MB of weights of each weighting


class ExactSums:
    """Sums over i < j of all pairs, float64."""

    def __init__(self, state: PairState, totals: Totals | None) -> None:
        self.rate_sum, self.instability_sum = state.rate_sum, state.instability_sum
        self.average_sum, self._totals = state.average_sum, totals

    def long_rate_sum(self) -> Tensor:
        """Σ c_long."""
        assert self._totals is not None
        return self._totals.long_rate_sum()


class WindowSums(ExactSums):
    """The same over the pairs of the last window, each c_ij / c_long times."""

    def long_rate_sum(self) -> Tensor:
        """Σ c."""
        return self.rate_sum()


class PairReader:
    """The reading side of a tracker."""

    n_latents: int
    device: torch.device
    windows_closed: int
    totals_from: int | None
    totals: Totals | None
    _state: PairState | None

    def _forget_weights(self) -> None:
        """Compute weights and their sums anew: a window has been closed."""
        self._weight_sums: dict[tuple[str, bool], Tensor] = {}
        self._rows_kept: dict[tuple[str, int, int], Tensor] = {}

    @property
    def last_window(self) -> Int[Tensor, "W K"] | None:
        """Latents of the last closed window's tokens, ascending, -1 in empty slots."""
        return None if self._state is None else self._state.last_window

    def has_weights(self, weighting: str = "instability") -> bool:
        """Return True once enough windows have been closed for a weighting, or are in totals."""
        found = self._weighting(weighting)
        if not found.totals_windows:
            return self.windows_closed > 0
        return self.totals is not None and self.totals.n_windows >= found.totals_windows

    def _weighting(self, name: str) -> Weighting:
        """Return a weighting that can be had.

        Raises:
            InvalidOption: there is none of that name, or it takes totals that are not kept.
        """
        check_totals(name, self.totals_from)
        return find_weighting(name)

    def rate(self, i: Tensor, j: Tensor) -> Tensor:
        """c_ij of the last closed window; n_ii / W where i = j. i and j: int tensors of one shape.

        Raises:
            ValueError: for i or j of another kind, or on different devices.
        """
        return self._read("rate", i, j)

    def average(self, i: Tensor, j: Tensor) -> Tensor:
        """c̄_ij with the last closed window folded in; 0 where i = j."""
        return self._read("average", i, j)

    def before(self, i: Tensor, j: Tensor) -> Tensor:
        """c̄_ij as it was before the last closed window: what s compares the rate with."""
        return self._read("before", i, j)

    def _read(self, what: str, i: Tensor, j: Tensor) -> Tensor:
        check_pair(i, j, self.n_latents)
        device, i, j = i.device, i.to(self.device), j.to(self.device)
        if self._state is None:
            return torch.zeros(i.shape, device=device)
        return getattr(self._state, what)(i, j).to(device)

    def weight(self, i: Tensor, j: Tensor, weighting: str = "instability") -> Tensor:
        """w_ij of the last closed window; 0 before there are weights, and where i = j.

        Raises:
            ValueError: for i or j of another kind, or on different devices.
            InvalidOption: there is no such weighting, or it takes totals that are not kept.
        """
        check_pair(i, j, self.n_latents)
        if not self.has_weights(weighting):
            return torch.zeros(i.shape, device=i.device)
        weights = self._of_pairs(find_weighting(weighting), i.to(self.device), j.to(self.device))
        return torch.where(i == j, 0.0, weights.to(i.device))

    def _of_pairs(self, weighting: Weighting, i: Tensor, j: Tensor) -> Float[Tensor, "*n"]:
        """Return the weights of some pairs, float32."""
        state = self._state
        assert state is not None

        def read(what: str) -> Any:
            return self._long_counts(i, j) if what == "totals" else getattr(state, what)(i, j)

        return weighting.weight(PairStatistics(read)).float()

    def _long_counts(
        self, i: Tensor, j: Tensor, found: tuple[Tensor, Tensor] | None = None
    ) -> LongCounts:
        """Return totals of some pairs; `found` has n_ij and Σ n_ij² where they are known."""
        totals = self.totals
        assert totals is not None
        n, squares = totals.checked_counts(i, j) if found is None else found
        return LongCounts(i, j, n, squares, totals.n, totals.n_tokens, totals.n_windows)

    def relative_weights(
        self, tokens: Int[Tensor, " M"], weighting: str = "instability"
    ) -> Float[Tensor, "M K K"]:
        """w / c of the pairs of some tokens, by the slots of `last_window`; 0 where i = j.

        Σ_{i≠j} w_ij g_ij is the mean over the window's tokens of Σ (w / c)_ij g_ij over the pairs
        of a token (METHOD, an exact identity). With a weighting from totals this is w / c_long, and
        the mean is the sum over pairs of the window of w_ij g_ij, c_ij / c_long times: over windows
        that is Σ w_ij g_ij again.

        Args:
            tokens: of the last window.
            weighting: a relative one.
        """
        state, window = self._state, self.last_window
        assert state is not None and window is not None
        if not self.has_weights(weighting):
            return torch.zeros(len(tokens), *2 * window.shape[1:], device=self.device)

        def read(what: str) -> Any:
            if what == "rate":
                return state.token_rates(tokens)
            latents = window[tokens].clamp(min=0)
            i, j = torch.broadcast_tensors(latents[:, :, None], latents[:, None, :])
            return self._long_counts(i, j) if what == "totals" else getattr(state, what)(i, j)

        pairs = PairStatistics(read)
        return (self._weighting(weighting).function(pairs) * (pairs.rate > 0)).float()

    def weight_rows(
        self, lo: int, hi: int, weighting: str = "instability"
    ) -> Float[Tensor, "rows F"]:
        """w_ij of the latents i from `lo` to `hi` with all j > i; 0 elsewhere.

        Kept until the next window where they are small: not to be written to.
        """
        if not self.has_weights(weighting) or self._state is None:
            return torch.zeros(hi - lo, self.n_latents, device=self.device)
        key = (weighting, lo, hi)
        if key in self._rows_kept:
            return self._rows_kept[key]
        found = find_weighting(weighting)
        rows = self._long_rows if found.totals_windows else self._short_rows
        weights = rows(found, lo, hi)
        if self.n_latents <= KEPT_LATENTS:
            self._rows_kept[key] = weights
        return weights

    def _short_rows(self, weighting: Weighting, lo: int, hi: int) -> Tensor:
        """Return weights of a block, from a block of what it takes."""
        state = self._state
        assert state is not None
        weights = weighting.weight(PairStatistics(lambda what: state.row_block(what, lo, hi)))
        return weights if weighting.relative else weights.triu(lo + 1)

    def _long_rows(self, weighting: Weighting, lo: int, hi: int) -> Tensor:
        """Return weights of a block, from the packed totals of its pairs i < j."""
        state, totals = self._state, self.totals
        assert state is not None and totals is not None
        i, j = upper_pairs(lo, hi, self.n_latents, self.device)

        def read(what: str) -> Any:
            if what != "totals":
                return getattr(state, what)(i, j)
            return self._long_counts(i, j, totals.of_rows(lo, hi))

        block = torch.zeros(hi - lo, self.n_latents, device=self.device)
        block[i - lo, j] = weighting.weight(PairStatistics(read)).float()
        return block

    def weight_matrix(self, weighting: str = "instability") -> Float[Tensor, "F F"]:
        """Return all weights as one F x F matrix, zero diagonal, to look at."""
        upper = self.weight_rows(0, self.n_latents, weighting)
        return upper + upper.T

    def rate_matrix(self) -> Float[Tensor, "F F"]:
        """c of every pair in the last closed window, zero diagonal."""
        return self.weight_matrix("co_activation")

    def factors(self, weighting: str) -> Float[Tensor, " F"] | None:
        """Return u of a weighting whose weights are u_i u_j; None of any other."""
        factor = self._weighting(weighting).factor
        if factor is None:
            return None
        if self.totals is None or not self.has_weights(weighting):
            return torch.zeros(self.n_latents, device=self.device)
        return factor(self.totals).float()

    def weight_sum(
        self, weighting: str = "instability", of_window: bool = False
    ) -> Float[Tensor, ""]:
        """Return what the weights of all ordered pairs i ≠ j are divided by; once per window.

        That is Σ w, if the weighting says nothing else.

        Args:
            weighting: of the weights.
            of_window: of the pairs of the last window, each c_ij / c_long times, as a sample of its
                tokens has them; the same for all weightings but those from totals.
        """
        if not self.has_weights(weighting) or self._state is None:
            return torch.zeros((), device=self.device)
        found = find_weighting(weighting)
        key = (weighting, of_window and found.totals_windows > 0)
        if key not in self._weight_sums:
            total = self._divisor(weighting, found, of_window=key[1])
            self._weight_sums[key] = (2 * total).to(torch.float32)
        return self._weight_sums[key]

    def weight_share(self, weighting: str) -> Float[Tensor, ""]:
        """Return Σ w over what the weights are divided by, NaN while there are none.

        1 for most weightings; for `stable` and `bursty` the share of all co-activation that is.
        """
        return 2 * self._sum_over_rows(weighting).float() / self.weight_sum(weighting)

    def _divisor(self, name: str, weighting: Weighting, of_window: bool) -> Float[Tensor, ""]:
        """Return the divisor of the weights over i < j, float64."""
        assert self._state is not None
        if weighting.total is not None:
            sums = WindowSums if of_window else ExactSums
            return weighting.total(sums(self._state, self.totals))
        if weighting.factor is not None:
            u = self.factors(name)
            assert u is not None
            u = u.double()
            return (u.sum().square() - u.square().sum()) / 2
        return self._sum_over_window(weighting) if of_window else self._sum_over_rows(name)

    def _sum_over_window(self, weighting: Weighting) -> Float[Tensor, ""]:
        """Σ_{i<j} c_ij / c_long w_ij, float64, over the pairs of the last window."""
        assert self._state is not None
        window = self._state.closed()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for i, j, n in window.pairs():
            # Where there is padding, of count 0, the latent may be F.
            i, j = i.clamp(max=self.n_latents - 1), j.clamp(max=self.n_latents - 1)
            found = self._long_counts(i, j)
            pairs = PairStatistics({"totals": found}.__getitem__)
            total += (weighting.function(pairs) * n).sum() / window.n_tokens
        return total

    def _sum_over_rows(self, weighting: str) -> Float[Tensor, ""]:
        """Σ_{i<j} w, float64, for a weighting that names no sums at hand."""
        size = max(1, PAIRS_AT_ONCE // self.n_latents)
        starts = range(0, self.n_latents, size)
        ends = (min(start + size, self.n_latents) for start in starts)
        blocks = zip(starts, ends, strict=True)
        sums = [self.weight_rows(lo, hi, weighting).sum(dtype=torch.float64) for lo, hi in blocks]
        return torch.stack(sums).sum()

    def pairs(self, min_count: float) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """i < j of the pairs with W max(c, c̄ before) >= min_count, for `min_count` > 0."""
        if self._state is None or self.last_window is None:
            return (torch.zeros(0, dtype=torch.int64, device=self.device),) * 2
        # Half a count lower: count / W * W is not always the count again.
        return self._state.at_least((min_count - 0.5) / self.last_window.shape[0])

    def count_histogram(self) -> Int[Tensor, " W+1"]:
        """Count the pairs with each count from 1 on in the last closed window; entry 0 is 0."""
        assert self._state is not None
        return self._state.histogram()
