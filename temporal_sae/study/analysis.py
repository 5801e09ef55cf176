"""Arms at a matched cost, and the contrasts that were fixed before the runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from temporal_sae.metrics import better_when_higher
from temporal_sae.statistics import (
    PairedTest,
    detectable_difference,
    holm,
    paired_test,
    value_at,
)
from temporal_sae.study.design import FINAL, TUNING, Arm, Contrast, Design, Stage
from temporal_sae.study.table import Row

LEVEL = 0.05
BETTER, WORSE, SAME = "better", "worse", "no difference shown"


class AtBudget(NamedTuple):
    """An arm where it has spent the budget, or as much of it as its runs reach.

    Attributes:
        arm: its name.
        values: of every metric, a value for each seed, NaN where it was not measured.
        reached: seeds whose path reaches the budget; of the others the strongest λ2 counts where
            it costs less, and the weakest where every one costs more.
    """

    arm: str
    values: dict[str, list[float]]
    reached: int


class Compared(NamedTuple):
    """A contrast in one metric.

    Attributes:
        contrast: the two arms and the question.
        metric: its name.
        arm, control: means over the seeds.
        test: of the paired differences, arm less control.
        holm: its p value, corrected for all contrasts and metrics of the setting.
        detectable: the difference that would have been found with a power of 80 %.
    """

    contrast: Contrast
    metric: str
    arm: float
    control: float
    test: PairedTest
    holm: float
    detectable: float

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference shown`, by the corrected p value."""
        if not self.holm <= LEVEL:
            return SAME
        higher = better_when_higher(self.metric.partition(".")[2])
        return BETTER if (self.test.mean > 0) == bool(higher) else WORSE


def stage_of(design: Design, setting: str) -> tuple[Stage, tuple[int, ...]]:
    """Return the stage and the seeds by which a setting is judged."""
    if setting in design.only_tuned:
        return TUNING, design.tuning_seeds
    return FINAL, design.seeds


def at_budget(design: Design, rows: Sequence[Row], setting: str, arm: Arm) -> AtBudget:
    """Return an arm at the explained variance of the plain SAE of the same seed less the budget."""
    stage, seeds = stage_of(design, setting)
    own = [row for row in rows if (row.stage, row.setting) == (stage, setting)]
    plain = {row.seed: row for row in own if row.arm == design.plain.name}
    values: dict[str, list[float]] = {name: [] for name in design.metrics}
    reached = 0
    for seed in seeds:
        path = sorted(
            (r for r in own if (r.arm, r.seed) == (arm.name, seed)), key=lambda r: r.weight
        )
        target = plain[seed].metrics[design.cost] - design.budget if seed in plain else math.nan
        costs = [row.metrics[design.cost] for row in path]
        if len(path) > 1 and min(costs) <= target <= max(costs):
            reached += 1
            for name in design.metrics:
                values[name].append(value_on(costs, [r.metrics[name] for r in path], target))
            continue
        for name in design.metrics:
            values[name].append(nearest(path, costs, target).metrics[name] if path else math.nan)
    return AtBudget(arm.name, values, reached)


def value_on(costs: Sequence[float], values: Sequence[float], target: float) -> float:
    """Return a metric where the path has the target cost; NaN where it was not measured."""
    return value_at(costs, values, target) if all(map(math.isfinite, values)) else math.nan


def nearest(path: Sequence[Row], costs: Sequence[float], target: float) -> Row:
    """Return the run that counts where no path leads to the target."""
    return path[0] if costs and max(costs) < target else path[-1]


def compare(design: Design, rows: Sequence[Row], setting: str) -> list[Compared]:
    """Return the contrasts of a setting, corrected for each other (Holm); none if only tuned."""
    if setting in design.only_tuned:
        return []
    arms = {arm.name: arm for arm in (design.plain, *design.arms)}
    wanted = {name for c in design.contrasts for name in (c.arm, c.control)}
    found = {name: at_budget(design, rows, setting, arms[name]) for name in wanted}
    pairs = [(c, metric) for c in design.contrasts for metric in c.metrics]
    sides = [(found[c.arm].values[m], found[c.control].values[m]) for c, m in pairs]
    tests = [paired_test(a, b) for a, b in sides]
    corrected = holm([test.p for test in tests])
    return [
        Compared(c, m, mean(a), mean(b), t, p, detectable_difference(t.deviation, t.n))
        for (c, m), (a, b), t, p in zip(pairs, sides, tests, corrected, strict=True)
    ]


def mean(values: Sequence[float]) -> float:
    """Return the mean of what was measured."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def paths(
    design: Design, rows: Sequence[Row], setting: str
) -> Iterator[tuple[Arm, list[tuple[float, dict[str, float]]]]]:
    """Yield every arm with its λ2 and the means of its metrics over the seeds that count."""
    stage, _ = stage_of(design, setting)
    for arm in (design.plain, *design.arms):
        own = [r for r in rows if (r.stage, r.setting, r.arm) == (stage, setting, arm.name)]
        weights = sorted({r.weight for r in own if not math.isnan(r.weight)}) or [math.nan]
        yield (
            arm,
            [
                (w, {m: mean([r.metrics[m] for r in with_weight(own, w)]) for m in design.metrics})
                for w in weights
            ],
        )


def with_weight(rows: Sequence[Row], weight: float) -> list[Row]:
    """Return the runs of one λ2."""
    return [r for r in rows if r.weight == weight or (math.isnan(weight) and math.isnan(r.weight))]
