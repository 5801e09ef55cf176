"""All results of a sweep in two tables, with a row per job.

`sweep.csv` is to be read: number, folder and state, the objective, the options that differ between
jobs, the metrics that say something about the SAE (as `core.l0`), what the run took, and the reason
of a failure. `sweep_full.parquet` holds everything, with proper types: every override, and all
numbers and words of `results.json` under the names of their sections joined by dots, such as
`core.metrics.sparsity.l0`. What a job does not have is empty.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from temporal_sae.errors import printable
from temporal_sae.files import write_atomically
from temporal_sae.metrics import TRAINING_METRICS, declared
from temporal_sae.report.sweep_facts import (
    JobFacts,
    JobStatus,
    Value,
    read_jobs,
    typed,
    varying,
)

CSV, PARQUET = "sweep.csv", "sweep_full.parquet"
FACTS = (
    "wall_seconds",
    "training_seconds",
    "tokens_per_second",
    "peak_memory_bytes.host",
    "peak_memory_bytes.device",
    "processes",
)
# The ending of every section's name, in this package, in SAEBench and in the reference files.
ENDINGS = re.compile(r" (results for layer \d+|(evaluations? )?results)$")
Row = dict[str, Value]
Table = dict[str, list[Value]]  # a list a column, with a value per job


def collect(folder: Path, statuses: Sequence[JobStatus]) -> None:
    """Write `sweep.csv` and `sweep_full.parquet` in the sweep's folder."""
    jobs = read_jobs(statuses)
    write_atomically(folder / CSV, as_csv(short_table(folder, jobs)))
    write_atomically(folder / PARQUET, as_parquet(full_table(folder, jobs)))


def short_table(folder: Path, jobs: Sequence[JobFacts]) -> Table:
    """Return the results of all jobs beside what differs between them."""
    keys = [key for key in varying(jobs) if key != "objective"]
    parts = []
    for job in jobs:
        place = {**place_of(folder, job), "objective": job.objective}
        options = {key: typed(job.options[key]) for key in keys if key in job.options}
        reason: Row = {"reason": job.status.reason}
        parts.append((place, options, metrics_of(job.results), facts_of(job), reason))
    table = as_table(parts)
    for name in [name for name, values in table.items() if set(values) == {None}]:
        if name not in ("reason", *keys):
            del table[name]
    return table


def full_table(folder: Path, jobs: Sequence[JobFacts]) -> Table:
    """Return everything that is known of all jobs."""
    parts = []
    for job in jobs:
        place = {**place_of(folder, job), "reason": job.status.reason}
        goal: Row = {"objective_name": job.objective_name, "objective": job.objective}
        options = {key: typed(value) for key, value in job.options.items() if key not in goal}
        results = flat({short(name): content for name, content in job.results.items()})
        parts.append((place, goal, options, facts_of(job), results))
    return as_table(parts)


def as_table(parts: Sequence[tuple[Row, ...]]) -> Table:
    """Return columns of the rows' parts, those of an earlier part first."""
    by_part = zip(*parts, strict=True)
    table: Table = {name: [] for rows in by_part for row in rows for name in row}
    for row_parts in parts:
        row = {name: value for part in reversed(row_parts) for name, value in part.items()}
        for name, values in table.items():
            values.append(row.get(name))
    return table


def place_of(folder: Path, job: JobFacts) -> Row:
    """Return what says which job it is, and how far it is."""
    name = printable(str(job.status.folder.relative_to(folder)))
    return {"number": job.status.number, "folder": name, "state": job.status.state}


def facts_of(job: JobFacts) -> Row:
    """Return what a job took."""
    record = flat(job.record)
    return {fact: record[fact] for fact in FACTS if fact in record}


def metrics_of(results: dict[str, Any]) -> Row:
    """Return the compared metrics under the short name of their section, those in tables first."""
    known = [m for m in declared() if m.compared and m.sections and "*" not in m.name]
    known = sorted(known, key=lambda metric: not metric.label)
    return {
        f"{short(metric.sections[0])}.{metric.name}": metric.of(results)
        for metric in (*known, *TRAINING_METRICS.values())
    }


def flat(nested: dict[str, Any], prefix: str = "") -> Row:
    """Return the scalars of nested dictionaries, under keys joined by dots."""
    row: Row = {}
    for key, value in nested.items():
        name = prefix + printable(re.sub(r"[\s.]+", "_", str(key)))
        if isinstance(value, dict):
            row |= flat(value, f"{name}.")
        elif value is None or isinstance(value, (int, float, bool)):
            row[name] = value
        elif isinstance(value, str):
            row[name] = printable(value)
    return row


def short(section: str) -> str:
    """`core` of `core evaluation results`, `training` of `training results for layer 12`."""
    return re.sub(r"[\s-]+", "_", ENDINGS.sub("", section))


def as_csv(table: Table) -> str:
    """Return a head line and a line per job; truth values as in YAML."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table)
    for row in zip(*table.values(), strict=True):
        writer.writerow([str(value).lower() if isinstance(value, bool) else value for value in row])
    return file.getvalue()


def as_parquet(table: Table) -> bytes:
    """Return the same, with a type for each column."""
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    columns = {name: one_type(values) for name, values in table.items()}
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def one_type(values: list[Value]) -> list[Value]:
    """Whole numbers become floats beside floats; anything beside words becomes words.

    So does a whole number beyond 64 bits, which no other type would hold.
    """
    kinds = {str if is_long(value) else type(value) for value in values if value is not None}
    if len(kinds) <= 1 and not any(map(is_long, values)):
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def is_long(value: Value) -> bool:
    """Return whether it is a whole number beyond the 64 bits of a column."""
    return isinstance(value, int) and not -(2**63) <= value < 2**63
