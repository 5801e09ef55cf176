"""Bootstrap intervals of scores, and differences between runs paired over seeds.

An interval around one score answers what would happen with other texts or words, the SAE being
what it is; its units are what was sampled (snippets, words). A paired difference answers what
would happen with other seeds; its units are runs. Neither says anything about the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]

# Indices held at once: 8 MB, however many units and resamples there are.
AT_ONCE = 2**20
# From so many pairs on the bootstrap finds the shape of the differences better than it errs.
ENOUGH_FOR_BOOTSTRAP = 10
TOO_FEW, SAME, UNCLEAR = "too few pairs", "no spread, no interval", "no clear difference"
IMPROVEMENT, WORSE, HIGHER, LOWER = "improvement", "worse", "higher", "lower"


def bootstrap_interval(
    statistic: Statistic,
    n_units: int,
    seed: int,
    n_resamples: int = 1000,
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> tuple[float, float]:
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
        return math.nan, math.nan
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
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
) -> tuple[float, float]:
    """Interval of a score that is a sum over units, as every mean and mean of group means is.

    Args:
        contributions: float [n_units]; for a mean, values / n_units.
        seed, groups, n_resamples: as `bootstrap_interval` takes them.
    """
    values = np.asarray(contributions, dtype=np.float64)
    return bootstrap_interval(
        lambda indices: values[indices].sum(1), len(values), seed, n_resamples, groups=groups
    )


@dataclass(frozen=True)
class PairedDifference:
    """The difference between runs that differ in one thing and share their seeds.

    Attributes:
        differences: a_i - b_i of each pair.
        mean: their mean, NaN without pairs.
        low, high: interval of the mean; NaN where there is none.
        verdict: `improvement` or `worse` only where the interval excludes zero and it is known
            what is better; `higher` or `lower` where that is not known; else why there is none.
    """

    differences: tuple[float, ...]
    mean: float
    low: float
    high: float
    verdict: str

    @property
    def excludes_zero(self) -> bool:
        """True where there is an interval and zero lies outside it."""
        return self.low > 0 or self.high < 0


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    seed: int,
    higher_is_better: bool | None = True,
    level: float = 0.95,
    n_resamples: int = 2000,
) -> PairedDifference:
    """Mean of a_i - b_i over pairs, with an interval that holds for few pairs too.

    With three seeds a percentile bootstrap is no 95 % interval: all three draws are the smallest
    difference in 1 of 27 resamples, more than 2.5 %, so the interval runs from the smallest to the
    largest difference, and for a symmetric spread it misses the truth whenever all three lie on
    one side of it, 1 time in 4. Below 10 pairs the interval is therefore Student's,
    mean ± t s/√n, exact for normal differences at any n ≥ 2 and wide where little is known (a
    factor of 4.3 on s/√n at n = 3). From 10 pairs on it is the studentised bootstrap (Efron and
    Tibshirani, An Introduction to the Bootstrap, 12.5), which follows the differences' own shape
    and, unlike the percentiles, is not too narrow by √(1 - 1/n).

    Args:
        a, b: values of the runs, in the same order of seeds; a pair with a NaN is left out.
        seed: fixes the resamples.
        higher_is_better: of the values; None where neither is.
        level: coverage of the interval.
        n_resamples: of the bootstrap.

    Raises:
        ValueError: a and b differ in length.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values do not make pairs")
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    whole = np.isfinite(left) & np.isfinite(right)
    left, right = left[whole], right[whole]
    differences = left - right
    mean = float(differences.mean()) if differences.size else math.nan
    scale = float(np.abs(np.concatenate([left, right])).max(initial=0.0))
    if differences.size < 2:
        low = high = math.nan
        verdict = TOO_FEW
    elif np.ptp(differences) <= 1e-12 * scale:  # rounding alone: nothing tells how they vary
        low = high = 0.0 if abs(mean) <= 1e-12 * scale else math.nan
        verdict = UNCLEAR if low == 0.0 else SAME
    else:
        low, high = mean_interval(differences, seed, level, n_resamples)
        verdict = verdict_of(low, high, higher_is_better)
    return PairedDifference(tuple(map(float, differences)), mean, low, high, verdict)


def mean_interval(
    values: NDArray[np.float64], seed: int, level: float, n_resamples: int
) -> tuple[float, float]:
    """Return the interval of a mean: Student's for few values, else the studentised bootstrap."""
    from scipy.special import stdtrit  # slow to import

    n = len(values)
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(n)
    tail = (1 - level) / 2
    if n < ENOUGH_FOR_BOOTSTRAP:
        low, high = stdtrit(n - 1, [tail, 1 - tail])
    else:
        rng = np.random.default_rng(seed)
        drawn = values[resample(np.zeros(n, dtype=np.int64), n_resamples, rng)]
        errors = drawn.std(1, ddof=1) / math.sqrt(n)
        varied = errors > 1e-9 * error  # a resample of one value alone has no error to divide by
        t = (drawn.mean(1)[varied] - mean) / errors[varied]
        low, high = -np.quantile(t, [1 - tail, tail])
    return float(mean + low * error), float(mean + high * error)


def verdict_of(low: float, high: float, higher_is_better: bool | None) -> str:
    """Return in words what an interval of a difference supports."""
    if not (low > 0 or high < 0):
        return UNCLEAR
    if higher_is_better is None:
        return HIGHER if low > 0 else LOWER
    return IMPROVEMENT if (low > 0) == higher_is_better else WORSE
