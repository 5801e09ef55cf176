"""Bootstrap intervals of scores: what would happen with other texts, the SAE being what it is.

Their units are what was sampled (snippets, words). What would happen with other seeds is another
question, whose units are runs: see `temporal_sae.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]

# Indices held at once: 8 MB, however many units and resamples there are.
AT_ONCE = 2**20


class Interval(tuple[float, float]):
    """(low, high), and what it was made from.

    Attributes:
        drawn: value in each resample, [R]; NaN where it is not defined. Two SAEs that are scored on
            the same units with the same seed have the same units in each.
        n_units: number of units.
    """

    drawn: NDArray[np.float64]
    n_units: int

    def __new__(cls, low: float, high: float, drawn: ArrayLike = (), n_units: int = 0) -> Interval:
        """Make the pair."""
        made = super().__new__(cls, (low, high))
        made.drawn, made.n_units = np.asarray(drawn, dtype=np.float64), n_units
        return made


def bootstrap_interval(
    statistic: Statistic,
    n_units: int,
    seed: int,
    n_resamples: int = 1000,
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Interval:
    """Percentile interval of a statistic under resampling of its units with replacement.

    Args:
        statistic: takes unit indices, int [R, n_units], and returns the value of each of the R
            resamples, [R]. NaN marks a resample in which it is not defined; those are left out.
        n_units: number of units.
        seed: fixes the resamples.
        n_resamples: how many.
        level: share of resamples inside the interval.
        groups: int [n_units], the group (stratum) of each unit. Every place of a resample is then
            filled from the group of the unit that stands there, so that groups keep their places
            and sizes. A group of a single unit does not vary.

    Returns:
        (low, high); NaN twice where there are fewer than two units or nothing is defined, because
        one unit says nothing about how much units differ.
    """
    if n_units < 2:
        return Interval(math.nan, math.nan)
    labels = np.zeros(n_units, dtype=np.int64) if groups is None else np.asarray(groups)
    if labels.shape != (n_units,):
        raise ValueError(f"groups has shape {labels.shape}, must have ({n_units},)")
    rng = np.random.default_rng(seed)
    rows = max(1, AT_ONCE // n_units)
    values = np.concatenate(
        [
            np.asarray(statistic(resample(labels, min(rows, n_resamples - done), rng)))
            for done in range(0, n_resamples, rows)
        ]
    ).astype(np.float64)
    defined = values[~np.isnan(values)]
    if not defined.size:
        return Interval(math.nan, math.nan)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), values, n_units)


def resample(
    groups: NDArray[np.int64], n_resamples: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Unit indices [n_resamples, n_units]; each place is filled from its own group."""
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    members = np.argsort(group, kind="stable")  # group after group
    start = np.cumsum(size) - size
    drawn = rng.random((n_resamples, len(group))) * size[group]
    return members[start[group] + drawn.astype(np.int64)]


def sum_interval(
    contributions: ArrayLike, seed: int, groups: ArrayLike | None = None, n_resamples: int = 1000
) -> Interval:
    """Interval of a score that is a sum over units, as every mean and mean of group means is.

    Args:
        contributions: float [n_units]; for a mean, values / n_units.
        seed, groups, n_resamples: as `bootstrap_interval` takes them.
    """
    values = np.asarray(contributions, dtype=np.float64)
    return bootstrap_interval(
        lambda indices: values[indices].sum(1), len(values), seed, n_resamples, groups=groups
    )
