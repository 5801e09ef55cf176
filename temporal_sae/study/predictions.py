"""Predictions that were written down before the first run, and whether they hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from temporal_sae.study.analysis import at_budget, compare, mean
from temporal_sae.study.design import Design
from temporal_sae.study.table import Row
from temporal_sae.study.words import difference


@dataclass(frozen=True)
class Judged:
    """A prediction in one metric: what was found, in words, and whether it was predicted."""

    metric: str
    found: str
    holds: bool


@dataclass(frozen=True)
class Difference:
    """Two arms differ in a metric, or do not.

    Attributes:
        said: in words.
        settings: where.
        arm, control: of a contrast of the design.
        metrics: each is a prediction of its own.
        verdicts: that were predicted.
    """

    said: str
    settings: tuple[str, ...]
    arm: str
    control: str
    metrics: tuple[str, ...]
    verdicts: tuple[str, ...]

    def judged(self, design: Design, rows: Sequence[Row], setting: str) -> Iterator[Judged]:
        """Yield what was found in a setting."""
        for found in compare(design, rows, setting):
            sides = found.contrast.arm, found.contrast.control
            if sides == (self.arm, self.control) and found.metric in self.metrics:
                holds = found.verdict in self.verdicts
                yield Judged(found.metric, f"{difference(found)}, {found.verdict}", holds)


@dataclass(frozen=True)
class Level:
    """The mean of an arm in a metric lies between two bounds.

    Attributes:
        said: in words.
        settings: where.
        arm, metric: of which.
        bounds: the least and the largest value that were predicted.
    """

    said: str
    settings: tuple[str, ...]
    arm: str
    metric: str
    bounds: tuple[float, float]

    def judged(self, design: Design, rows: Sequence[Row], setting: str) -> Iterator[Judged]:
        """Yield what was found in a setting."""
        (arm,) = (a for a in (design.plain, *design.arms) if a.name == self.arm)
        value = mean(at_budget(design, rows, setting, arm).values[self.metric])
        yield Judged(self.metric, f"{value:.3f}", self.bounds[0] <= value <= self.bounds[1])


Prediction = Difference | Level
