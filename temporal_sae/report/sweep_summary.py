"""The last words of a sweep: a table of what came of it, the best job, and where to read on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from temporal_sae.errors import printable
from temporal_sae.metrics import Metric, better_when_higher, declared
from temporal_sae.report.build import NOTES, PAGE
from temporal_sae.report.sizes import curves, elbow_lines, is_about_sizes, score_metrics
from temporal_sae.report.sweep_facts import JobFacts, JobStatus, read_jobs, varying
from temporal_sae.report.sweep_table import CSV
from temporal_sae.terminal import wide

MOST_ROWS = 40
SEED = "seed"
Value = Callable[[JobFacts], float | None]


@dataclass(frozen=True)
class Column:
    """A number of each job: its heading, how it is read, and how it is written."""

    heading: str
    value: Value
    form: str


def say_last_words(folder: Path, statuses: Sequence[JobStatus], console: Console) -> None:
    """Print what came of a sweep.

    Args:
        folder: of the sweep.
        statuses: of its jobs.
        console: where to print.
    """
    jobs = [job for job in read_jobs(statuses) if job.finished]
    if not jobs:
        return
    console = wide(console)
    if len(jobs) < len(statuses):
        console.print(
            f"results of the {len(jobs)} of {len(statuses)} jobs that are finished:",
            highlight=False,
        )
    keys = [key for key in varying(jobs) if key != "objective"]
    settings = by_setting(jobs, keys)
    averaged = any(len(same) > 1 for same in settings)
    rows = settings if averaged else [[job] for job in jobs]
    _print_table(rows, [key for key in keys if not (averaged and key == SEED)], averaged, console)
    if is_about_sizes(jobs):
        _print_sizes(jobs, console)
    for line in closing_lines(folder, jobs, settings if averaged else [], keys):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def by_setting(jobs: Sequence[JobFacts], keys: Sequence[str]) -> list[list[JobFacts]]:
    """Return the jobs in groups that differ in nothing but the seed."""
    groups: dict[tuple[str | None, ...], list[JobFacts]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.options.get(k) for k in keys if k != SEED), []).append(job)
    return list(groups.values())


def columns_of(jobs: Sequence[JobFacts]) -> list[Column]:
    """Return the headline metrics that some job has, and the objective where it is another."""
    headlines = [Column(m.label, _reading(m), m.form) for m in declared() if m.headline]
    columns = [c for c in headlines if any(c.value(job) is not None for job in jobs)]
    if any(job.objective not in [None, *(c.value(job) for c in columns)] for job in jobs):
        names = dict.fromkeys(f"objective {job.objective_name}" for job in jobs)
        heading = next(iter(names)) if len(names) == 1 else "objective"
        columns.append(Column(printable(heading), lambda job: job.objective, "{:.4g}"))
    return columns


def spread(values: Sequence[float | None], form: str) -> str:
    """Return mean ± standard deviation, the value of a single job, or a dash for none."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    told = form.format(mean(known))
    return f"{told} ± {form.format(stdev(known))}" if len(known) > 1 else told


def shown_rows(rows: Sequence[Sequence[JobFacts]]) -> list[Sequence[JobFacts]]:
    """Return the rows that fit, in their order: the best where there are more."""
    higher = better_when_higher(rows[0][0].objective_name)

    def rank(row: Sequence[JobFacts]) -> tuple[bool, float]:
        value = average(row)
        return value is None, 0.0 if value is None else value * (-1 if higher else 1)

    ranked = rows if higher is None else sorted(rows, key=rank)
    kept = {id(row) for row in ranked[:MOST_ROWS]}
    return [row for row in rows if id(row) in kept]


def average(jobs: Sequence[JobFacts]) -> float | None:
    """Return the mean objective of jobs, None where one has none."""
    values = [job.objective for job in jobs if job.objective is not None]
    return mean(values) if len(values) == len(jobs) else None


def best_of(rows: Sequence[Sequence[JobFacts]]) -> Sequence[JobFacts] | None:
    """Return the jobs with the best mean objective, the first of equals.

    None if no side of the objective is better, or no row has it.
    """
    higher = better_when_higher(rows[0][0].objective_name) if rows else None
    known = [(value, row) for row in rows if (value := average(row)) is not None]
    if higher is None or not known:
        return None
    return (max if higher else min)(known, key=lambda pair: pair[0])[1]


def closing_lines(
    folder: Path,
    jobs: Sequence[JobFacts],
    settings: Sequence[Sequence[JobFacts]],
    keys: Sequence[str],
) -> list[str]:
    """Return the best setting, the best job, and the files to read.

    Args:
        folder: of the sweep.
        jobs: those that are finished.
        settings: jobs that differ in their seed alone, where seeds are averaged.
        keys: of the options that vary.
    """
    lines = []
    name = jobs[0].objective_name
    # One lucky seed says less than several: only settings with as many seeds as any compete.
    most = max(map(len, settings), default=0)
    if setting := best_of([same for same in settings if len(same) == most]):
        told = spread([job.objective for job in setting], "{:.4g}")
        words = _told(setting[0], [key for key in keys if key != SEED]) or "the only one"
        lines.append(f"best setting: {words}, {name} {told} over {most} seeds")
    if best := best_of([[job] for job in jobs]):
        job = best[0]
        words = _told(job, keys)
        what = f" ({words})" if words else ""
        lines.append(f"best job: {job.status.number}{what}, {name} {job.objective:.4g}")
        there = f" (read {NOTES})" if (job.status.folder / NOTES).exists() else ""
        lines.append(f"  in {printable(str(job.status.folder))}{there}")
    elif better_when_higher(name) is None:
        lines.append(f"no best job: neither side of {name} is declared better")
    lines.append(f"all results: {printable(str(folder / CSV))}")
    report = folder / PAGE
    return [*lines, f"report: {printable(str(report))}"] if report.is_file() else lines


def _reading(metric: Metric) -> Value:
    return lambda job: job.value(metric)


def _told(job: JobFacts, keys: Sequence[str]) -> str:
    return " ".join(f"{key}={job.options[key]}" for key in keys if key in job.options)


def _print_table(
    rows: Sequence[Sequence[JobFacts]], keys: Sequence[str], averaged: bool, console: Console
) -> None:
    """Print a row per job, or per setting with mean and deviation over its seeds."""
    kept = shown_rows(rows)
    columns = columns_of([job for row in rows for job in row])
    table = _empty(["seeds" if averaged else "job", *map(_short(keys), keys)])
    for column in columns:
        table.add_column(column.heading, justify="right")
    for row in kept:
        first = str(len(row) if averaged else row[0].status.number)
        options = [row[0].options.get(key, "") for key in keys]
        numbers = [spread([column.value(job) for job in row], column.form) for column in columns]
        table.add_row(first, *options, *numbers)
    console.print(table, markup=False, highlight=False)
    if (more := len(rows) - len(kept)) > 0:
        which = "the first" if better_when_higher(rows[0][0].objective_name) is None else "the best"
        console.print(f"{which} {len(kept)} are shown; {more} more are in {CSV}", highlight=False)


def _print_sizes(jobs: Sequence[JobFacts], console: Console) -> None:
    """Print quality against L0 for each size of the dictionary, and the elbows."""
    found = curves(jobs)
    table = _empty(["against L0", "L0", *(metric.label for metric in score_metrics())])
    lines = []
    for name, points in list(found.items())[:MOST_ROWS]:
        for n, point in enumerate(points):
            scores = [
                spread([score], metric.form)
                for score, metric in zip(point.scores, score_metrics(), strict=True)
            ]
            table.add_row(name if n == 0 else "", f"{point.l0:.4g}", *scores)
        lines += elbow_lines(name, points)
    console.print()
    console.print(table, markup=False, highlight=False)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _empty(headings: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    return table


def _short(keys: Sequence[str]) -> Callable[[str], str]:
    """Return a function from a key to its last word, or to all of it where two end alike."""
    ends = [key.rpartition(".")[2] for key in keys]
    return lambda key: end if ends.count(end := key.rpartition(".")[2]) == 1 else key
