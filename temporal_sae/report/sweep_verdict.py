"""Did the method help, over a sweep? Each setting beside the runs that lack the penalty."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

from temporal_sae.errors import RunError, printable
from temporal_sae.eval.statistics import IMPROVEMENT, WORSE, PairedDifference
from temporal_sae.metrics import DASH, TRAINING_SECTION, Metric
from temporal_sae.report.neighbours import COMMON, seedless
from temporal_sae.report.paired import LEVEL, Comparison, Run, compare_groups, run_of
from temporal_sae.report.sweep_facts import JobFacts
from temporal_sae.report.tables import Table
from temporal_sae.report.verdict import is_headline, label_of
from temporal_sae.schemas import ComparedConfig

WEIGHT = Metric(name="ortho_weight", sections=(TRAINING_SECTION,), groups=("config",))
OF_METHOD = ("tracker", "loss")


class Judged(NamedTuple):
    """A verdict on a sweep.

    Attributes:
        sentences: in words.
        table: a row for each setting that has a baseline; None where none has.
    """

    sentences: list[str]
    table: Table | None


def against_baseline(jobs: Sequence[JobFacts], keys: Sequence[str]) -> Judged:
    """Return what the runs without the penalty say about those with it.

    Args:
        jobs: that have finished.
        keys: of the options that vary.
    """
    known = [job for job in jobs if job.config and type(job.record.get("seed")) is int]
    plain = [job for job in known if not job.value(WEIGHT)]
    others = [job for job in known if job.value(WEIGHT)]
    if not others:
        return Judged(["No run has the orthogonality penalty: there is nothing to judge."], None)
    if not plain:
        said = "Whether the penalty helped cannot be said: no run here is without it."
        return Judged([said, "`loss.ortho_weight=0` among the values of a sweep makes one."], None)
    reasons: list[str] = []
    found = list(judged(others, plain, keys, reasons))
    if not found:
        said = f"Whether the penalty helped cannot be said: {printable(reasons[0])}."
        return Judged([said], None)
    return Judged(sentences(found), table_of(found))


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


def sentences(found: Sequence[tuple[str, Comparison]]) -> list[str]:
    """Return what all comparisons support together."""
    rows = [row for _, compared in found for row in compared.rows if is_headline(row)]
    with_interval = [row for row in rows if row.difference.low < row.difference.high]
    if not with_interval:
        return [
            f"{len(found)} settings stand beside the same without the penalty, with one seed each "
            "or without any spread, so no difference below is a result: more values of `seed` "
            "would tell."
        ]
    said = []
    for name in dict.fromkeys(label_of(row) for row in with_interval):
        own = [row.difference.verdict for row in with_interval if label_of(row) == name]
        told = f"better in {own.count(IMPROVEMENT)}, worse in {own.count(WORSE)}"
        said.append(f"{name}: {told} of {len(own)} settings")
    by_chance = (1 - LEVEL) * len(with_interval)
    return [
        f"Beside the same without the penalty, by intervals that exclude zero: {'; '.join(said)}.",
        f"Of {len(with_interval)} intervals about {by_chance:.1f} would exclude zero by chance "
        "alone if the penalty did nothing; no correction is made.",
    ]


def table_of(found: Sequence[tuple[str, Comparison]]) -> Table:
    """Return the differences of headline metrics, with their intervals; a star excludes zero."""
    names = dict.fromkeys(
        label_of(row) for _, compared in found for row in compared.rows if is_headline(row)
    )
    rows = []
    for setting, compared in found:
        cells = {label_of(row): cell(row.difference) for row in compared.rows if is_headline(row)}
        rows.append([setting, str(len(compared.seeds)), *(cells.get(n, DASH) for n in names)])
    return Table(
        "against_baseline",
        "Difference from the same without the penalty",
        ["setting", "seeds", *names],
        rows,
        ["Difference, and its 95 % interval over seeds; * where that excludes zero."],
    )


def cell(difference: PairedDifference) -> str:
    """Return a difference with its interval."""
    told = f"{difference.mean:+.3g}"
    if math.isnan(difference.low):
        return told
    mark = " *" if difference.excludes_zero else ""
    return f"{told} [{difference.low:+.3g}, {difference.high:+.3g}]{mark}"
