"""Scores against sparsity, or against each other: which runs no other run beats on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from temporal_sae.metrics import Metric, declared, fitting
from temporal_sae.report.figures import Figure, Line, Point, Points
from temporal_sae.report.sweep_facts import JobFacts

MOST_FIGURES = 6
L0 = "l0"


class Named(Protocol):
    """Names and addresses of runs."""

    def link(self, job: JobFacts) -> str: ...
    def name(self, job: JobFacts) -> str: ...


def pareto_figures(facts: Named, jobs: Sequence[JobFacts]) -> list[Figure]:
    """Return the scores that vary, each against L0 where that varies, else against the first."""
    l0 = fitting(L0)[0]
    scores = [m for m in declared() if m.label and m.better and varies(m, jobs)]
    scores.sort(key=lambda metric: not metric.headline)
    if varies(l0, jobs):
        pairs = [(l0, score) for score in scores if score.name != L0]
    else:
        pairs = [(scores[0], score) for score in scores[1:]]
    return [scores_figure(facts, jobs, *pair) for pair in pairs[:MOST_FIGURES]]


def varies(metric: Metric, jobs: Sequence[JobFacts]) -> bool:
    """Return True if two runs have different values."""
    return len({job.value(metric) for job in jobs} - {None}) > 1


def scores_figure(facts: Named, jobs: Sequence[JobFacts], x: Metric, y: Metric) -> Figure:
    """Return one score against another, and the runs that no other beats on both."""
    known = [
        (a, b, job)
        for job in jobs
        if (a := job.value(x)) is not None and (b := job.value(y)) is not None
    ]
    x_label = "L0" if x.name == L0 else x.label
    better_x = "lower" if x.name == L0 else x.better
    best = frontier([(a, b) for a, b, _ in known], better_x == "higher", y.better == "higher")
    points = [
        Point(
            a,
            b,
            f"{facts.name(job)}: {y.label} {y.form.format(b)}, {x_label} {a:.4g}",
            facts.link(job),
            kind=0 if (a, b) in best else 3,
        )
        for a, b, job in known
    ]
    line = Line("not beaten on both sides", [a for a, _ in best], [b for _, b in best])
    title = f"{y.label} against {x_label}"
    says = "The line joins the runs that no other beats on both sides."
    return Figure(title, Points(title, points, x_label, y.label, [line]), says)


def frontier(
    points: Sequence[tuple[float, float]], x_higher: bool, y_higher: bool
) -> list[tuple[float, float]]:
    """Return the points that no other is as good as on both sides and better on one, by x.

    Args:
        points: (x, y).
        x_higher, y_higher: higher is better.
    """

    def sign(p: tuple[float, float]) -> tuple[float, float]:
        return p[0] if x_higher else -p[0], p[1] if y_higher else -p[1]

    found: list[tuple[float, float]] = []
    best = float("-inf")
    for point in sorted(set(points), key=sign, reverse=True):
        if sign(point)[1] > best:
            best = sign(point)[1]
            found.append(point)
    return sorted(found)
