"""Draws of the features that fire in a row by themselves.

A time is a topic within a phase: rows of one time have the same rates.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.latents import Latents

ROWS_AT_ONCE = 1024


class Firing(Protocol):
    """Draws what fires."""

    def draw(self, times: Int[Tensor, " rows"], generator: torch.Generator) -> Int[Tensor, " n"]:
        """Return ascending keys row * n_features + feature for rows of the given times."""


class Independent:
    """Features that fire independently of each other.

    Sampling costs what the features cost that fire, not all that there are. A rate p is met
    exactly by Poisson counts of mean -ln(1 - p): their sum over all features is one Poisson draw,
    and each count of it belongs to a feature with a probability proportional to that mean.

    Args:
        rates: of each time, float64.
    """

    def __init__(self, rates: Float[Tensor, "n_times n_features"]) -> None:
        self._cumulative = -torch.log1p(-rates).cumsum(1)

    def draw(self, times: Int[Tensor, " rows"], generator: torch.Generator) -> Int[Tensor, " n"]:
        """Return ascending keys row * n_features + feature for rows of the given times."""
        n_features = self._cumulative.shape[1]
        totals = self._cumulative[:, -1]
        counts = torch.poisson(totals[times], generator=generator).long()
        row = torch.repeat_interleave(torch.arange(len(times)), counts)
        time = times[row]
        drawn = torch.rand(len(row), dtype=torch.float64, generator=generator) * totals[time]
        feature = torch.empty_like(row)
        for number in times.unique().tolist():
            of_time = time == number
            found = torch.searchsorted(self._cumulative[number], drawn[of_time], right=True)
            feature[of_time] = found.clamp(max=n_features - 1)
        return (row * n_features + feature).unique()


class Together:
    """Features of which some tend to fire together and some apart.

    A feature fires where a normal variable exceeds the quantile of its rate; a share of that
    variable's variance is a random mixture of few factors that a row has for all features (a
    Gaussian copula of low rank, as in SynthSAEBench, arXiv 2602.14687). Rates are met exactly. The
    cost of a row grows with the number of features that fire by themselves.

    Args:
        rates: of each time, float64.
        share: of the variance that features have in common.
        rank: number of the factors.
        generator: draws how features depend on them.
    """

    def __init__(
        self,
        rates: Float[Tensor, "n_times n_features"],
        share: float,
        rank: int,
        generator: torch.Generator,
    ) -> None:
        self._n_features = rates.shape[1]
        self._features = (rates > 0).any(0).nonzero()[:, 0]
        loadings = torch.randn(len(self._features), rank, generator=generator)
        self._loadings = loadings * (share**0.5 / loadings.norm(dim=-1, keepdim=True))
        self._own = (1 - share) ** 0.5
        self._limits = -torch.special.ndtri(rates[:, self._features]).float()

    def draw(self, times: Int[Tensor, " rows"], generator: torch.Generator) -> Int[Tensor, " n"]:
        """Return ascending keys row * n_features + feature for rows of the given times."""
        keys = []
        for start in range(0, len(times), ROWS_AT_ONCE):
            time = times[start : start + ROWS_AT_ONCE]
            factors = torch.randn(len(time), self._loadings.shape[1], generator=generator)
            own = torch.randn(len(time), len(self._features), generator=generator)
            above = own.mul_(self._own).addmm_(factors, self._loadings.T) > self._limits[time]
            row, place = above.nonzero(as_tuple=True)
            keys.append((row + start) * self._n_features + self._features[place])
        return torch.cat(keys)


def in_rows(
    key: Int[Tensor, " n"], values: Float[Tensor, " n"], n_rows: int, n_features: int
) -> Latents:
    """Lists of equal length from sorted keys row * n_features + feature; -1 in empty slots."""
    row, feature = key // n_features, key % n_features
    counts = torch.bincount(row, minlength=n_rows)
    slot = torch.arange(len(key)) - (counts.cumsum(0) - counts)[row]
    width = max(1, int(counts.max())) if n_rows else 1
    indices = torch.full((n_rows, width), -1)
    indices[row, slot] = feature
    placed = torch.zeros(n_rows, width)
    placed[row, slot] = values
    return Latents(placed, indices)
