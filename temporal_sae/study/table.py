"""The table of an experiment: a row per run, as it is committed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporal_sae.errors import RunError
from temporal_sae.files import write_atomically
from temporal_sae.metrics import fitting
from temporal_sae.report.sweep_facts import read_jobs
from temporal_sae.report.sweep_table import short
from temporal_sae.study.design import ORTHO_WEIGHT, Design, Setting, Stage
from temporal_sae.sweep.status import read_sweep

KEYS = ("stage", "setting", "arm", "weight", "seed", "training_seconds")


@dataclass(frozen=True)
class Row:
    """A run: where it belongs, its metrics by name, and the seconds of its training.

    A number is NaN where it was not measured.
    """

    stage: str
    setting: str
    arm: str
    weight: float
    seed: int
    metrics: dict[str, float]
    training_seconds: float = math.nan


def rows_of_sweep(design: Design, setting: Setting, stage: Stage, folder: Path) -> Iterator[Row]:
    """Yield the finished runs of a sweep.

    Raises:
        RunError: a job belongs to no arm, or is not finished.
    """
    for job in read_jobs(read_sweep(folder)):
        if not job.finished:
            raise RunError(f"{job.status.folder}: is {job.status.state}; run the study again")
        arm = design.arm_of(job.options)
        if arm is None:
            raise RunError(f"{job.status.folder}: is of no arm of the study {design.name}")
        metrics = {name: measured(name, job.results) for name in design.metrics}
        weight = float(job.options[ORTHO_WEIGHT]) if arm.grid else math.nan
        seconds = float(job.record.get("training_seconds", math.nan))
        where = (stage, setting.name, arm.name, weight, int(job.options["seed"]))
        yield Row(*where, metrics, round(seconds, 1))


def measured(name: str, results: dict[str, Any]) -> float:
    """Return a metric by its section and name, such as `core.l0`; NaN where it was not measured."""
    section, _, own = name.partition(".")
    for metric in fitting(own):
        if metric.sections and short(metric.sections[0]) == section:
            value = metric.called(own).of(results)
            return math.nan if value is None else float(value)
    return math.nan


def write_table(path: Path, design: Design, rows: Iterable[Row]) -> None:
    """Write rows in the order of the design, so that the same runs give the same bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*KEYS, *design.metrics])
    for row in sorted(rows, key=place_in(design)):
        values = [row.metrics[name] for name in design.metrics]
        keys = [row.stage, row.setting, row.arm, shown(row.weight), row.seed]
        writer.writerow([*keys, *map(shown, (row.training_seconds, *values))])
    write_atomically(path, text.getvalue())


def place_in(design: Design) -> Callable[[Row], tuple[bool, int, int, float, int]]:
    """Return the key by which rows are sorted."""
    settings = [setting.name for setting in design.settings]
    arms = [arm.name for arm in (design.plain, *design.arms)]

    def place(row: Row) -> tuple[bool, int, int, float, int]:
        weight = -1.0 if math.isnan(row.weight) else row.weight
        where = settings.index(row.setting), arms.index(row.arm)
        return (row.stage != "tuning", *where, weight, row.seed)

    return place


def shown(value: float) -> str:
    """Return a number in six digits, nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.6g}"


def read_table(path: Path, design: Design) -> list[Row]:
    """Return the rows of a committed table.

    Raises:
        RunError: there is none, or it has other columns.
    """
    try:
        lines = list(csv.reader(io.StringIO(path.read_text())))
    except FileNotFoundError:
        told = f"python -m temporal_sae.study run {design.name} writes it"
        raise RunError(f"{path}: is missing; {told}") from None
    if not lines or lines[0] != [*KEYS, *design.metrics]:
        raise RunError(f"{path}: has other columns than the study {design.name}")
    return [row_of(line, design.metrics) for line in lines[1:]]


def row_of(line: Sequence[str], metrics: Sequence[str]) -> Row:
    """Return a line of the table as a row."""
    stage, setting, arm, weight, seed, *values = line
    seconds, *numbers = (float(value) if value else math.nan for value in values)
    found = dict(zip(metrics, numbers, strict=True))
    chosen = float(weight) if weight else math.nan
    return Row(stage, setting, arm, chosen, int(seed), found, seconds)
