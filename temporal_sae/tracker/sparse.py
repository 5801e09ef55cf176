"""Running averages of the pairs that were seen, in a map: memory grows with them, not with F²."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.errors import check_number
from temporal_sae.kernels import pair_map
from temporal_sae.kernels.averages import PAIR, UNION, AlphaStep
from temporal_sae.tracker.alpha import divide, moved
from temporal_sae.tracker.saved import check_rows, key_bits, latents_of, saved_pairs
from temporal_sae.tracker.statistics import instability
from temporal_sae.tracker.window import Window

PRUNE_FROM = 2**26  # pairs, about 0.7 GB; with fewer it is not worth an error
GROWTH_BETWEEN_PRUNINGS = 1.5
FIXED_POINT = 2.0**40  # Σ c̄ is at most k²/2, so this holds up to k = 4096


class SparseAverages:
    """c̄ of the pairs that have one, about 10 bytes each on the CPU.

    From 67 million pairs on, and whenever their number has then grown by half, those whose average
    is below `prune_below` are forgotten, which takes them for 0. Since a step of the average never
    widens a gap, no average is ever too high, nor too low by more than `error_bound`, which is the
    number of prunings times `prune_below`; the instability of a pair with rate c is then off by at
    most error_bound / c, which is at most W · error_bound for a pair that occurred at all.

    Args:
        n_latents: F.
        device: where they live.
        rows: hold only pairs i < j with lo <= i < hi; all by default.
        prune_below: 0 forgets nothing. A pair that occurs once in a window enters at
            1 / (alpha_scale · W), 1e-6 with the defaults.
    """

    relabel = True

    def __init__(
        self,
        n_latents: int,
        device: torch.device,
        rows: tuple[int, int] | None = None,
        prune_below: float = 0.0,
    ) -> None:
        self.n_latents, self.device = n_latents, device
        self.lo, self.hi = rows or (0, n_latents)
        self.prune_below = check_number("prune_below", prune_below)
        self.bits = key_bits(n_latents)
        self.map = self._empty_map()
        self.prunings = 0
        self._prune_at = PRUNE_FROM

    def _empty_map(self) -> Any:
        return pair_map.PairMap(self.device, 2 * self.bits)

    @property
    def error_bound(self) -> float:
        """The most by which an average can be too low for having been forgotten."""
        return self.prunings * self.prune_below

    def close(self, previous: Window | None, step: AlphaStep, window: Window) -> Tensor:
        """Fold in the window before, and compare with this one: Σ_{i<j} c s, float64."""
        if previous is not None:
            self._fold(previous, step)
            self._prune()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for i, j, n in window.pairs():
            rate = divide(n, window.n_tokens) * self._holds(i)
            s = instability(rate, self.map.lookup(self._keys(i, j)))
            total += (rate * s).sum(dtype=torch.float64)
        return total

    def _fold(self, window: Window, step: AlphaStep) -> None:
        changes = []
        for i, j, n in window.pairs():
            keys = torch.where((n > 0) & self._holds(i), self._keys(i, j), -1)
            own = (window.counts(i, i), window.counts(j, j)) if step.source == UNION else None
            values = moved(step, self.map.lookup(keys.clamp(min=0)), n, window.n_tokens, own)
            if step.source == PAIR:
                self.map.store(keys, values)
            else:
                changes.append((keys, values))
        if step.source != PAIR:
            self.map.update_all(lambda keys, old: self._without(window, step, keys, old))
        for keys, values in changes:
            self.map.store(keys, values)

    def _without(self, window: Window, step: AlphaStep, keys: Tensor, old: Tensor) -> Tensor:
        """Return the step of pairs as if they had not occurred in the window."""
        none = torch.zeros_like(keys, dtype=torch.int32)
        own = None
        if step.source == UNION:
            i, j = latents_of(keys, self.n_latents)
            own = window.counts(i, i), window.counts(j, j)
        return moved(step, old, none, window.n_tokens, own)

    def _prune(self) -> None:
        if self.prune_below == 0 or self.map.at_most < self._prune_at:
            return
        if len(self.map) >= self._prune_at:  # which may have to wait for a GPU, but rarely
            self.map.drop_below(self.prune_below)
            self.prunings += 1
            self._prune_at = max(PRUNE_FROM, int(GROWTH_BETWEEN_PRUNINGS * len(self.map)))

    def _keys(self, i: Tensor, j: Tensor) -> Tensor:
        return (i.long() << self.bits) | j.long()

    def _holds(self, i: Tensor) -> Tensor:
        return (i >= self.lo) & (i < self.hi)

    def lookup(self, i: Tensor, j: Tensor) -> Float[Tensor, "*n"]:
        """c̄_ij in any order of i and j; 0 where i = j, and for rows that are not held."""
        return self.map.lookup(self._keys(torch.minimum(i, j), torch.maximum(i, j)))

    def row_block(self, lo: int, hi: int) -> Float[Tensor, "rows F"]:
        """c̄ of some rows, 0 where j <= i."""
        block = torch.zeros(hi - lo, self.n_latents, device=self.device)
        for keys, values in self.map.pieces():
            i, j = latents_of(keys, self.n_latents)
            inside = (i >= lo) & (i < hi)
            block[i[inside] - lo, j[inside]] = values[inside]
        return block

    def at_least(self, bound: float) -> tuple[Tensor, Tensor]:
        """i < j, int64, of the pairs whose average is that high (bound > 0)."""
        found = [keys[values >= bound] for keys, values in self.map.pieces()]
        return latents_of(torch.cat(found).sort().values, self.n_latents)

    def sum_over(self, term: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Σ term(i, j, c̄), float64, over the pairs i < j that have an average."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for i, j, values in self._pieces():
            total += term(i, j, values).sum(dtype=torch.float64)
        return total

    def _pieces(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for keys, values in self.map.pieces():
            yield *latents_of(keys, self.n_latents), values

    def total(self) -> Float[Tensor, ""]:
        """Σ_{i<j} c̄, float64; summed as integers, since the order of a map is not its content."""
        sums = [(values.double() * FIXED_POINT).long().sum() for _, values in self.map.pieces()]
        return torch.stack(sums).sum().double() / FIXED_POINT

    def nbytes(self) -> int:
        """Bytes held."""
        return self.map.nbytes()

    def store(self, i: Tensor, j: Tensor, values: Tensor) -> None:
        """Set some averages, i < j; pairs of rows that are not held are passed over."""
        self.map.store(torch.where(self._holds(i), self._keys(i, j), -1), values)

    def state_dict(self) -> dict[str, Any]:
        """Pairs and their averages, in no order."""
        keys, values = (torch.cat(parts) for parts in zip(*self.map.pieces(), strict=True))
        rows = {"lo": self.lo, "hi": self.hi}
        pruned = {"prunings": self.prunings, "prune_at": self._prune_at}
        return {"keys": keys, "averages": values, **rows, **pruned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore, from the state of any storage that holds these rows."""
        check_rows(state, self.lo, self.hi)
        self.map = self._empty_map()
        for i, j, values in saved_pairs(state, self.n_latents):
            self.store(i.to(self.device), j.to(self.device), values.to(self.device))
        self.prunings = state.get("prunings", 0)
        self._prune_at = state.get("prune_at", PRUNE_FROM)
