"""Quality against sparsity for each size of the dictionary, and the elbow of each curve.

The elbow is the point that lies farthest above the chord between a curve's ends, once both axes are
scaled to 0..1: the rule of Kneedle (Satopää, Albrecht, Irwin and Raghavan, "Finding a 'Kneedle' in
a Haystack", ICDCSW 2011), without its smoothing, which a handful of points has no room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import mean
from typing import NamedTuple

from temporal_sae.metrics import TRAINING_SECTION, Metric, fitting
from temporal_sae.report.sweep_facts import JobFacts, varying

LEAST_POINTS = 3
LEAST_BEND = 0.02  # of the scaled distance: below, a curve is as good as straight
SWEPT = ("sae.d_sae", "sae.k")
SIZE, SPARSITY = "dict_size", "l0"
SCORES = ("explained_variance", "ce_loss_score")


class NoElbow(ValueError):
    """A curve has no elbow, for the reason given."""


class Point(NamedTuple):
    """One setting of a curve, averaged over its seeds: its L0, and a value for each score."""

    l0: float
    scores: tuple[float | None, ...]


def elbow(xs: Sequence[float], ys: Sequence[float]) -> int:
    """Return the place of the elbow of a rising curve that flattens.

    Args:
        xs: in rising order.
        ys: the value at each.

    Raises:
        NoElbow: there are too few points, or the curve falls somewhere or does not flatten.
    """
    if len(set(xs)) < LEAST_POINTS:
        raise NoElbow(f"{len(set(xs))} points, and it takes {LEAST_POINTS}")
    for (x, y), (next_x, next_y) in pairwise(zip(xs, ys, strict=True)):
        if next_y < y:
            raise NoElbow(f"it falls between L0 {x:.4g} and {next_x:.4g}")
    width, height = xs[-1] - xs[0], ys[-1] - ys[0]
    if not height:
        raise NoElbow("it is flat")
    above = [(y - ys[0]) / height - (x - xs[0]) / width for x, y in zip(xs, ys, strict=True)]
    place = max(range(len(above)), key=above.__getitem__)
    if above[place] < LEAST_BEND:
        raise NoElbow("it does not flatten")
    return place


def is_about_sizes(jobs: Sequence[JobFacts]) -> bool:
    """Return whether a sweep varies the dictionary's size or sparsity, at enough values of L0."""
    values = {job.value(_l0()) for job in jobs if job.finished} - {None}
    return len(values) >= LEAST_POINTS and not set(SWEPT).isdisjoint(varying(jobs))


def curves(jobs: Sequence[JobFacts]) -> dict[str, list[Point]]:
    """Return the points of each curve in the order of L0, by the size and what else sets it apart.

    What varies of the SAE moves a point along its curve, seeds are averaged, and everything else,
    such as the penalty's weight, makes a curve of its own.
    """
    keys = [key for key in varying(jobs) if key != "seed"]
    found: dict[tuple[str, ...], dict[tuple[str, ...], list[JobFacts]]] = {}
    for job in jobs:
        size = _size_of(job)
        if job.finished and size is not None and job.value(_l0()) is not None:
            told = [f"{key}={job.options[key]}" for key in keys if key in job.options]
            others = [word for word in told if not word.startswith("sae.")]
            along = found.setdefault((f"d_sae={size}", *others), {})
            along.setdefault(tuple(told), []).append(job)
    return {
        " ".join(name): sorted(map(_point, along.values()), key=lambda point: point.l0)
        for name, along in found.items()
    }


def elbow_lines(name: str, points: Sequence[Point]) -> list[str]:
    """Return a sentence on the elbow of each score of a curve."""
    lines = []
    for n, metric in enumerate(score_metrics()):
        known = [(p.l0, value) for p in points if (value := p.scores[n]) is not None]
        if not known:
            continue
        xs, ys = zip(*known, strict=True)
        try:
            place = elbow(xs, ys)
        except NoElbow as error:
            lines.append(f"{name}: {metric.label} has no elbow: {error}")
            continue
        # The grid cannot tell more than between which two points the curve bends.
        between = f"between {xs[place - 1]:.4g} and {xs[place + 1]:.4g} of {len(xs)} points"
        lines.append(f"{name}: {metric.label} has its elbow at L0 {xs[place]:.4g} ({between})")
    return lines


def score_metrics() -> list[Metric]:
    """Return the declarations of what is shown against L0."""
    return [fitting(name)[0] for name in SCORES]


def _l0() -> Metric:
    return fitting(SPARSITY)[0]


def _size_of(job: JobFacts) -> int | None:
    size = job.value(Metric(name=SIZE, sections=(TRAINING_SECTION,), groups=("config",)))
    return None if size is None else int(size)


def _point(jobs: Sequence[JobFacts]) -> Point:
    """Return the average over the jobs of one setting; a score counts where all have it."""
    return Point(
        average(_l0(), jobs) or 0.0, tuple(average(metric, jobs) for metric in score_metrics())
    )


def average(metric: Metric, jobs: Sequence[JobFacts]) -> float | None:
    """Return the mean of a metric over jobs, None where one has no value."""
    values = [job.value(metric) for job in jobs]
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None
