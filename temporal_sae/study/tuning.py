"""The choice of λ2, on seeds of its own: for every arm the one that spends the whole budget.

Along λ2 an arm first gains and then loses explained variance. The chosen λ2 is the last one at
which the mean over the tuning seeds is still as high as the plain SAE's less the budget, between
two values of the grid by straight lines over log λ2. So arms are compared where they cost the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from temporal_sae.errors import RunError
from temporal_sae.study.design import FINAL, TUNING, Design
from temporal_sae.study.table import Row, shown


def choose(design: Design, rows: Sequence[Row]) -> dict[tuple[str, str], list[float]]:
    """Return the values of λ2 for every setting and arm, from the runs of the tuning.

    Raises:
        RunError: a run is missing.
    """
    tuning = [row for row in rows if row.stage == TUNING]
    chosen = {}
    for setting in design.settings_of(FINAL):
        plain = mean_cost(design, tuning, setting.name, design.plain.name, math.nan)
        for arm in design.arms:
            if not arm.grid:
                continue
            costs = [mean_cost(design, tuning, setting.name, arm.name, w) for w in arm.grid]
            best = last_within(arm.grid, costs, plain - design.budget)
            chosen[setting.name, arm.name] = [float(f"{best * s:.3g}") for s in design.spread]
    return chosen


def mean_cost(design: Design, rows: Sequence[Row], setting: str, arm: str, weight: float) -> float:
    """Return the mean of the matched metric over the seeds of some runs.

    Raises:
        RunError: there are none.
    """
    values = [
        row.metrics[design.cost]
        for row in rows
        if (row.setting, row.arm) == (setting, arm) and same(row.weight, weight)
    ]
    if not values:
        raise RunError(f"{design.name}: there is no run of {arm} at weight {weight:g} in {setting}")
    return float(np.mean(values))


def same(a: float, b: float) -> bool:
    """Return whether two weights are one, in the six digits of a table; NaN stands for none."""
    return shown(a) == shown(b)


def last_within(grid: Sequence[float], costs: Sequence[float], target: float) -> float:
    """Return the largest λ2 at which the metric is at least the target.

    The largest of the grid where it never falls below, the smallest where it is never reached.
    """
    best = grid[0]
    for (low, here), (high, there) in pairwise(zip(grid, costs, strict=True)):
        if there >= target:
            best = high
        elif here >= target:
            share = (here - target) / (here - there)
            best = math.exp((1 - share) * math.log(low) + share * math.log(high))
    return best
