"""`report.html` of several runs: a sweep, or runs that are set beside each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from temporal_sae.errors import printable
from temporal_sae.metrics import DASH, better_when_higher
from temporal_sae.report.build import PAGE
from temporal_sae.report.comparison import training_config
from temporal_sae.report.figures import Figure, Line, Parallel, Point, Points
from temporal_sae.report.pages import render
from temporal_sae.report.pareto import pareto_figures
from temporal_sae.report.sizes import (
    LEAST_POINTS,
    curves,
    elbow_lines,
    is_about_sizes,
    score_metrics,
)
from temporal_sae.report.sweep_facts import JobFacts, varying
from temporal_sae.report.sweep_grid import grids
from temporal_sae.report.sweep_summary import (
    SEED,
    average,
    best_of,
    by_setting,
    closing_lines,
    columns_of,
    spread,
)
from temporal_sae.report.sweep_verdict import SweepVerdict, against_baseline
from temporal_sae.report.tables import Table

MOST_LINES = 400  # of parallel coordinates
MOST_CURVES = 6
SUBJECT = ("lm_name", "submodule_name", "activations")
NOTHING = "No run has finished, so nothing can be said."


@dataclass(frozen=True, eq=False)
class SweepFacts:
    """Facts about several runs.

    Attributes:
        folder: in which the report is.
        title: of the report.
        jobs: all of them, whatever has become of them.
        keys: of the options that vary.
        command: that began them; empty where there are several.
    """

    folder: Path
    title: str
    jobs: Sequence[JobFacts]
    keys: list[str]
    command: str

    @classmethod
    def of(cls, folder: Path, title: str, jobs: Sequence[JobFacts], command: str) -> SweepFacts:
        """Return the facts of jobs that have been read."""
        keys = [key for key in varying(jobs) if key != "objective"]
        return cls(folder, printable(title), jobs, keys, printable(command))

    @cached_property
    def finished(self) -> list[JobFacts]:
        """The jobs whose results may be compared."""
        return [job for job in self.jobs if job.finished]

    @cached_property
    def judged(self) -> SweepVerdict:
        """The verdict on the method."""
        jobs = self.finished
        return against_baseline(jobs, self.keys) if jobs else SweepVerdict([NOTHING], None)

    @cached_property
    def settings(self) -> list[list[JobFacts]]:
        """The runs by what sets them apart besides the seed; nothing if no two share that."""
        found = by_setting(self.finished, self.keys)
        return found if any(len(same) > 1 for same in found) else []

    def link(self, job: JobFacts) -> str:
        """Return where the report of a job is, from the folder of this one; empty without one."""
        path = job.status.folder / PAGE
        return quote(os.path.relpath(path, self.folder)) if path.is_file() else ""

    def name(self, job: JobFacts) -> str:
        """Return a job in words."""
        told = " ".join(f"{key}={job.options[key]}" for key in self.keys if key in job.options)
        return told or printable(job.status.folder.name)


def page_of_jobs(facts: SweepFacts) -> str:
    """Return the page of several runs."""
    jobs = facts.finished
    shown = {table.name: table for table in tables_of(facts)}
    bent = [c for c in curves(jobs).items() if len(c[1]) >= LEAST_POINTS]
    elbows = [line for curve in bent for line in elbow_lines(*curve)]
    return render(
        "sweep.html",
        title=facts.title,
        facts=facts,
        counts=counts(facts.jobs),
        words=words_of(facts),
        tables=shown,
        links={str(job.status.number): facts.link(job) for job in facts.jobs},
        elbows=elbows if is_about_sizes(jobs) else [],
        **figures_of_jobs(facts),
    )


def figures_of_jobs(facts: SweepFacts) -> dict[str, list[Figure]]:
    """Return the figures of several runs, by the part of the page that they are in."""
    jobs = facts.finished
    return {
        "pareto": pareto_figures(facts, jobs),
        "sizes": size_figures(jobs),
        "grids": grids(facts, jobs),
        "parallel": parallel_figures(facts, jobs),
    }


def tables_of(facts: SweepFacts) -> list[Table]:
    """Return the tables of several runs: against the baseline, by setting, and all."""
    found = [] if facts.judged.table is None else [facts.judged.table]
    if facts.settings:
        found.append(settings_table(facts, facts.settings))
    return [*found, job_table(facts)]


def words_of(facts: SweepFacts) -> list[str]:
    """Return the verdict in sentences."""
    return [*facts.judged.sentences, *subjects_differ(facts), *best_words(facts)]


def subjects_differ(facts: SweepFacts) -> list[str]:
    """Return a warning if the runs are not on the same activations."""
    told = [training_config(job.results) for job in facts.finished]
    places = {tuple(str(config.get(key)) for key in SUBJECT) for config in told}
    data = {str(job.config.get("data")) for job in facts.finished}
    if len(places) <= 1 and len(data) <= 1:
        return []
    return [
        "Not comparable: these runs are on different models, places or texts. Their numbers show "
        "where each stands, not which is better."
    ]


def counts(jobs: Sequence[JobFacts]) -> str:
    """Return how many jobs there are in each state."""
    states = [job.status.state for job in jobs]
    told = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return f"{len(jobs)} runs: {', '.join(told)}"


def best_words(facts: SweepFacts) -> list[str]:
    """Return the best setting and run in words, and how much that means."""
    jobs = facts.finished
    if not jobs:
        return []
    closing = closing_lines(facts.folder, jobs, facts.settings, facts.keys)
    found = [line for line in closing if line.startswith(("best ", "no best "))]
    if subjects_differ(facts):
        return []
    if len(jobs) > 1 and best_of([[job] for job in jobs]) is not None:
        found.append(
            "the best of many is in part the luckiest: the same options would hardly reach its "
            "value again"
        )
    return [f"{line[0].upper()}{line[1:]}." for line in found]


def job_table(facts: SweepFacts) -> Table:
    """Return a row for every run, with its state where it has not finished."""
    columns = columns_of(facts.finished)
    rows = []
    for job in facts.jobs:
        numbers = [
            DASH if (value := column.value(job)) is None else column.form.format(value)
            for column in columns
        ]
        if not job.finished:
            reason = printable(job.status.reason or "")
            numbers = [job.status.state + (f": {reason}" if reason else ""), *numbers[1:]]
        options = [job.options.get(key, "") for key in facts.keys]
        names = [] if facts.command else [printable(job.status.folder.name)]
        rows.append([str(job.status.number), *names, *options, *numbers])
    name = [] if facts.command else ["name"]
    header = ["run", *name, *facts.keys, *(column.heading for column in columns)]
    if not columns:
        header, rows = [*header, "state"], [[*row, ""][: len(header) + 1] for row in rows]
    return Table("runs", "All runs", header, rows, [])


def settings_table(facts: SweepFacts, settings: Sequence[Sequence[JobFacts]]) -> Table:
    """Return a row for every setting, averaged over its seeds, the best objective first."""
    keys = [key for key in facts.keys if key != SEED]
    columns = columns_of(facts.finished)
    sign = 1 if better_when_higher(settings[0][0].objective_name) is False else -1

    def rank(same: Sequence[JobFacts]) -> tuple[bool, float]:
        value = average(same)
        return value is None, 0.0 if value is None else sign * value

    ranked = sorted(settings, key=rank)
    rows = [
        [
            " ".join(f"{k}={same[0].options[k]}" for k in keys if k in same[0].options) or "all",
            str(len(same)),
            *(spread([column.value(job) for job in same], column.form) for column in columns),
        ]
        for same in ranked
    ]
    header = ["setting", "seeds", *(column.heading for column in columns)]
    return Table("settings", "Settings, mean ± standard deviation over seeds", header, rows, [])


def parallel_figures(facts: SweepFacts, jobs: Sequence[JobFacts]) -> list[Figure]:
    """Return a line for each run through the options that are numbers and the headline metrics."""
    numeric = {key: [as_number(job.options.get(key)) for job in jobs] for key in facts.keys}
    options = {
        key: values
        for key, values in numeric.items()
        if key != SEED and len(set(values) - {None}) > 1 and 2 * values.count(None) < len(values)
    }
    scores = {c.heading: [c.value(job) for job in jobs] for c in columns_of(jobs)}
    scores = {name: v for name, v in scores.items() if len({x for x in v if x is not None}) > 1}
    if not options or not scores or not 2 < len(jobs) <= MOST_LINES:
        return []
    axes = [*options.items(), *scores.items()]
    first = next(iter(options.values()))
    shades = sorted({value for value in first if value is not None})
    kinds = [min(5, shades.index(value)) if value is not None else 0 for value in first]
    chart = Parallel(
        "Options and scores of every run, a line each",
        [(short_key(name), values) for name, values in axes],
        [facts.name(job) for job in jobs],
        [facts.link(job) for job in jobs],
        kinds,
    )
    return [Figure("Options and scores", chart, "A line for every run; each leads to its report.")]


def size_figures(jobs: Sequence[JobFacts]) -> list[Figure]:
    """Return quality against L0, a curve for each size of the dictionary."""
    if not is_about_sizes(jobs):
        return []
    found = [curve for curve in curves(jobs).items() if len(curve[1]) > 1][:MOST_CURVES]
    figures = []
    for n, metric in enumerate(score_metrics()):
        lines = [Line(name, [p.l0 for p in ps], [p.scores[n] for p in ps]) for name, ps in found]
        lines = [line for line in lines if any(y is not None for y in line.ys)]
        if lines:
            chart = dotted(metric.label, lines)
            figures.append(Figure(chart.label, chart, "A curve for each size."))
    return figures


def dotted(label: str, lines: Sequence[Line]) -> Points:
    """Return lines with a dot at each of their points."""
    dots = [
        Point(x, y, f"{line.name}: {y:.4g} at L0 {x:.4g}", kind=n)
        for n, line in enumerate(lines)
        for x, y in zip(line.xs, line.ys, strict=True)
        if y is not None
    ]
    return Points(f"{label} against L0", dots, "L0", label, lines)


def as_number(text: str | None) -> float | None:
    """Return a typed value as a number; None if it is none."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def short_key(key: str) -> str:
    """Return the last word of a key."""
    return key.rpartition(".")[2]
