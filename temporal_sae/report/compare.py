"""Arms of an experiment against a baseline: every score tested, and judged by one rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from temporal_sae.errors import RunError
from temporal_sae.metrics import better_when_higher
from temporal_sae.report.arms import arms_of
from temporal_sae.report.paired import Comparison, compare_groups, compare_runs
from temporal_sae.report.primary import Primary, primary_of, primary_of_runs
from temporal_sae.report.rule import ALPHA, Judged, by_rule
from temporal_sae.report.texts import Resampled
from temporal_sae.statistics import Interval, equivalence, holm

EQUIVALENT, NOT_WORSE, NOT_SHOWN = "equivalent", "not worse", "not shown"


@dataclass(frozen=True)
class Equivalent:
    """A verdict on a difference that shall not matter.

    Attributes:
        margin: the largest that does not matter.
        p: of equivalence (TOST), corrected (Holm) over all arms and margins of the table.
        word: EQUIVALENT where that is below ALPHA; NOT_WORSE where the difference is not beyond the
            margin on the bad side, with its own p corrected likewise; else NOT_SHOWN.
    """

    margin: float
    p: float
    word: str


@dataclass(frozen=True)
class Compared:
    """Arms against a baseline.

    Attributes:
        names: what the two columns of means are called.
        rows: every metric of every arm.
        equivalent: by the place of its row, for the metrics that have a margin.
        over_texts: the interval for other seeds and other texts by the place of its row, where the
            runs have kept what it takes.
        seeds: shared with the baseline, by arm.
        primary: what was fixed beforehand; None if nothing was.
        notes: lines about what could not be compared.
    """

    names: tuple[str, str]
    rows: list[Judged]
    equivalent: dict[int, Equivalent]
    over_texts: dict[int, Interval]
    seeds: dict[str, list[int]]
    primary: Primary | None
    notes: list[str]

    @property
    def has_arms(self) -> bool:
        """True where there are arms by name, and not two groups alone."""
        return list(self.seeds) != [""]


def compare_two(a: Sequence[Path], b: Sequence[Path], margins: Mapping[str, float]) -> Compared:
    """Return the runs in the folders `a` against those in `b`; raises what `compare_runs` does."""
    compared, primary = compare_runs(a, b), primary_of_runs([*a, *b])
    return judged(("A", "B"), {"": compared}, primary, compared.notes, margins)


def compare_arms(
    sweep: Path, by: Sequence[str], baseline: Sequence[str], margins: Mapping[str, float]
) -> Compared:
    """Return the arms of a sweep against its baseline.

    Args:
        sweep: its folder.
        by: keys whose values tell arms apart.
        baseline: overrides that all runs of the baseline have.
        margins: by metric, the largest difference that does not matter.

    Raises:
        RunError: see `arms_of` and `compare_runs`; a metric with a margin was not measured.
    """
    found = arms_of(sweep, by, baseline)
    compared = {}
    for arm, runs in found.arms.items():
        try:
            compared[arm] = compare_groups(runs, found.baseline)
        except RunError as error:
            raise RunError(f"{arm}: {error}") from error
    notes = [*found.notes, *(f"{arm}: {n}" for arm, c in compared.items() for n in c.notes)]
    return judged(("mean", "baseline"), compared, primary_of(sweep), notes, margins)


def judged(
    names: tuple[str, str],
    compared: Mapping[str, Comparison],
    primary: Primary | None,
    notes: Sequence[str],
    margins: Mapping[str, float],
) -> Compared:
    """Return comparisons with the verdicts that they support together."""
    rows = by_rule({arm: c.rows for arm, c in compared.items()}, primary and primary.counts)
    told = list(notes)
    if primary and primary.kept and not any(row.primary for row in rows):
        told.append(f"{primary.metric}: the primary metric is not among the scores of these runs")
    seeds = {arm: c.seeds for arm, c in compared.items()}
    resampled = Resampled()
    over_texts = {
        place: interval
        for place, found in enumerate(rows)
        if (interval := resampled.interval(found.row, compared[found.arm].pairs))
    }
    return Compared(names, rows, equivalents(rows, margins), over_texts, seeds, primary, told)


def equivalents(rows: Sequence[Judged], margins: Mapping[str, float]) -> dict[int, Equivalent]:
    """Return what can be said of the rows whose metric has a margin, by their place.

    Raises:
        RunError: a metric was not measured.
    """
    for metric in margins:
        if not any(found.row.name == metric for found in rows):
            raise RunError(f"--equivalent={metric}: no score of these runs has that name")
    places = [n for n, found in enumerate(rows) if found.row.name in margins]
    tests = [equivalence(rows[n].row.test, margins[rows[n].row.name]) for n in places]
    higher = [better_when_higher(rows[n].row.name) for n in places]
    not_worse = [
        t.p if up is None else t.p_not_lower if up else t.p_not_higher
        for t, up in zip(tests, higher, strict=True)
    ]
    both, one_sided = holm([t.p for t in tests]), holm(not_worse)
    return {
        n: Equivalent(
            test.margin,
            p,
            EQUIVALENT if p < ALPHA else NOT_WORSE if side < ALPHA else NOT_SHOWN,
        )
        for n, test, p, side in zip(places, tests, both, one_sided, strict=True)
    }


def parse_margins(given: Sequence[str]) -> dict[str, float]:
    """Return the margins by metric, from METRIC=MARGIN.

    Raises:
        RunError: one is none.
    """
    found = {}
    for text in given:
        metric, _, margin = text.rpartition("=")
        try:
            found[metric] = float(margin)
        except ValueError:
            found[metric] = 0.0
        if not metric or not 0 < found[metric] < float("inf"):
            told = "must be METRIC=MARGIN with a positive number, such as explained_variance=0.005"
            raise RunError(f"--equivalent={text}: {told}")
    return found
