"""Did the method help, over a sweep? Each setting beside the runs that lack the penalty."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

from temporal_sae.errors import RunError, printable
from temporal_sae.metrics import DASH, TRAINING_SECTION, Metric
from temporal_sae.report.neighbours import COMMON, seedless
from temporal_sae.report.paired import Comparison, Run, compare_groups, run_of
from temporal_sae.report.primary import Primary, primary_of_runs, sentence_of
from temporal_sae.report.rule import IMPROVEMENT, WORSE, Judged, by_rule, correction
from temporal_sae.report.sweep_facts import JobFacts
from temporal_sae.report.tables import Table
from temporal_sae.report.verdict import is_headline, name_of
from temporal_sae.schemas import ComparedConfig

WEIGHT = Metric(name="ortho_weight", sections=(TRAINING_SECTION,), groups=("config",))
OF_METHOD = ("tracker", "loss")


class SweepVerdict(NamedTuple):
    """A verdict on a sweep.

    Attributes:
        sentences: in words.
        table: a row for each setting that has a baseline; None where none has.
    """

    sentences: list[str]
    table: Table | None


def against_baseline(jobs: Sequence[JobFacts], keys: Sequence[str]) -> SweepVerdict:
    """Return what the runs without the penalty say about those with it.

    Args:
        jobs: that have finished.
        keys: of the options that vary.
    """
    known = [job for job in jobs if job.config and type(job.record.get("seed")) is int]
    plain = [job for job in known if not job.value(WEIGHT)]
    others = [job for job in known if job.value(WEIGHT)]
    if not others:
        return SweepVerdict(
            ["No run has the orthogonality penalty: there is nothing to judge."], None
        )
    if not plain:
        said = "Whether the penalty helped cannot be said: no run here is without it."
        return SweepVerdict(
            [said, "`loss.ortho_weight=0` among the values of a sweep makes one."], None
        )
    reasons: list[str] = []
    found = list(judged(others, plain, keys, reasons))
    if not found:
        said = f"Whether the penalty helped cannot be said: {printable(reasons[0])}."
        return SweepVerdict([said], None)
    primary = primary_of_runs([job.status.folder for job in jobs])
    settings = by_setting(found, primary and primary.counts)
    return SweepVerdict(sentences(settings, primary), table_of(found, settings))


def judged(
    others: Sequence[JobFacts], plain: Sequence[JobFacts], keys: Sequence[str], reasons: list[str]
) -> Iterator[tuple[str, Comparison]]:
    """Yield each setting in words, compared with the runs that lack the penalty.

    Args:
        others: jobs that have it.
        plain: those that lack it.
        keys: of the options that vary.
        reasons: receives why a setting cannot be compared.
    """
    settings: dict[str, list[JobFacts]] = {}
    for job in others:
        settings.setdefault(key_of(job, [*COMMON, *OF_METHOD]), []).append(job)
    for same in settings.values():
        baseline = [job for job in plain if key_of(job, COMMON) == key_of(same[0], COMMON)]
        try:
            compared = compare_groups(
                [as_run(j) for j in same], [as_run(j) for j in first_of_seed(baseline)]
            )
        except RunError as error:
            reasons.append(str(error) if baseline else "no run without it has the other options")
            continue
        told = [f"{k}={same[0].options[k]}" for k in keys if k in same[0].options and k != "seed"]
        yield " ".join(told) or "with the penalty", compared


def key_of(job: JobFacts, groups: Sequence[str]) -> str:
    """Return what a run has in some groups of its config, the seed apart."""
    seed = job.record.get("seed")
    parts = [seedless(job.config.get(group), seed) for group in groups if group != "seed"]
    return json.dumps(parts, sort_keys=True, default=str)


def first_of_seed(jobs: Sequence[JobFacts]) -> list[JobFacts]:
    """Return one job of each seed: without a penalty the tracker's options change nothing."""
    return list({job.record.get("seed"): job for job in reversed(jobs)}.values())


def as_run(job: JobFacts) -> Run:
    """Return a job as it is compared."""
    return run_of(
        job.status.folder, job.record["seed"], cast(ComparedConfig, job.config), job.results
    )


def by_setting(found: Sequence[tuple[str, Comparison]], primary: str | None) -> list[list[Judged]]:
    """Return the rows of each setting, all judged together."""
    rows = by_rule({str(n): compared.rows for n, (_, compared) in enumerate(found)}, primary)
    return [[row for row in rows if row.arm == str(n)] for n in range(len(found))]


def sentences(settings: Sequence[Sequence[Judged]], primary: Primary | None) -> list[str]:
    """Return what all comparisons support together."""
    rows = [row for own in settings for row in own]
    tested = [row for row in rows if is_told(row) and row.row.test.low < row.row.test.high]
    if not tested:
        return [
            f"{len(settings)} settings stand beside the same without the penalty, with one seed "
            "each or without any spread, so no difference below is a result: more values of `seed` "
            "would tell."
        ]
    said = []
    for name in dict.fromkeys(name_of(row) for row in tested):
        own = [row.verdict for row in tested if name_of(row) == name]
        told = f"better in {own.count(IMPROVEMENT)}, worse in {own.count(WORSE)}"
        said.append(f"{name}: {told} of {len(own)} settings")
    return [
        f"Beside the same without the penalty, after correction: {'; '.join(said)}.",
        sentence_of(primary),
        correction(rows),
    ]


def table_of(
    found: Sequence[tuple[str, Comparison]], settings: Sequence[Sequence[Judged]]
) -> Table:
    """Return the differences of primary and headline metrics; a star is a clear difference."""
    told = [[row for row in own if is_told(row)] for own in settings]
    names = dict.fromkeys(name_of(row) for own in told for row in own)
    rows = []
    for (setting, compared), own in zip(found, told, strict=True):
        cells = {name_of(row): cell(row) for row in own}
        rows.append([setting, str(len(compared.seeds)), *(cells.get(n, DASH) for n in names)])
    return Table(
        "against_baseline",
        "Difference from the same without the penalty",
        ["setting", "seeds", *names],
        rows,
        ["Difference, and its 95 % interval over seeds; * where it is clear after correction."],
    )


def is_told(found: Judged) -> bool:
    """Return True for the metrics that a sweep's verdict is about."""
    return found.primary or is_headline(found)


def cell(found: Judged) -> str:
    """Return a difference with its interval."""
    test = found.row.test
    told = f"{test.mean:+.3g}"
    if math.isnan(test.low):
        return told
    mark = " *" if found.clear else ""
    return f"{told} [{test.low:+.3g}, {test.high:+.3g}]{mark}"
