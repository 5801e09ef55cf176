"""A metric at a matched value of another, along a path such as that of λ2.

A stronger penalty buys one metric with another, so arms that were run at different weights are
compared where they are level in what was paid, mostly explained variance. Everything here is for
one seed; the values of the seeds then make pairs as any other do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def value_at(matched: Sequence[float], values: Sequence[float], target: float) -> float:
    """Return a metric where a path has a given value of another metric, piecewise linear.

    Between two neighbours on the path both metrics change linearly. Where the path passes the
    target more than once (explained variance may rise before it falls), the last passage counts,
    which is that of the largest weight: a rule that looks at no value of the metric, so it favours
    no arm. A stretch that stays at the target counts by its last point.

    Args:
        matched: the metric that is held equal, [points], in the order of the weight.
        values: the metric asked for, [points].
        target: value of the first.

    Raises:
        ValueError: the path does not reach the target (nothing is extrapolated), the lengths
            differ, or a value is not finite.
    """
    if len(matched) != len(values) or not len(matched):
        raise ValueError(f"{len(matched)} and {len(values)} values do not make a path")
    if not all(map(math.isfinite, [*matched, *values, target])):
        raise ValueError("a path must have finite values")
    if not min(matched) <= target <= max(matched):
        reach = f"{min(matched):.6g} to {max(matched):.6g}"
        raise ValueError(f"target={target:.6g}: must lie on the path, which runs from {reach}")
    for point in range(len(matched) - 1, -1, -1):
        here = matched[point]
        if here == target:
            return float(values[point])
        if point and min(matched[point - 1], here) < target < max(matched[point - 1], here):
            share = (target - here) / (matched[point - 1] - here)
            return float(values[point] + share * (values[point - 1] - values[point]))
    raise AssertionError("a continuous path passes every value between its extremes")


def common_range(paths: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the values (low, high) of the matched metric that all paths reach, None without any.

    A target between them leaves out no seed and no arm; leaving out those that do not reach it
    would choose among seeds by their result.

    Args:
        paths: of every seed of every arm, each [points].
    """
    low = max(float(np.min(path)) for path in paths)
    high = min(float(np.max(path)) for path in paths)
    return (low, high) if low <= high else None
