"""All results of a sweep in one table: `sweep.csv`, and `sweep.parquet` with proper types.

A row is a job. Its columns: number, folder, state and reason; every option that a job overrides;
what the run took; and all numbers and words of its `results.json`, under the names of their
sections joined by dots, such as `core.metrics.sparsity.l0`. What a job does not have is empty.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from temporal_sae import schemas
from temporal_sae.errors import RunError, printable
from temporal_sae.files import write_atomically
from temporal_sae.sweep.plan import key_of
from temporal_sae.sweep.status import RECORD, JobStatus

log = logging.getLogger(__name__)

RESULTS = "results.json"
CSV, PARQUET = "sweep.csv", "sweep.parquet"
FACTS = (
    "wall_seconds",
    "training_seconds",
    "tokens_per_second",
    "peak_memory_bytes.host",
    "peak_memory_bytes.device",
    "processes",
)
# What every section's name ends with, in this package, in SAEBench and in the reference files.
ENDINGS = re.compile(r" (results for layer \d+|(evaluations? )?results)$")
Value = str | int | float | bool | None
Row = dict[str, Value]
Table = dict[str, list[Value]]  # a list a column, with a value per job


def collect(folder: Path, statuses: Sequence[JobStatus]) -> None:
    """Write `sweep.csv` and `sweep.parquet` in the sweep's folder."""
    parts = [parts_of(folder, status) for status in statuses]
    by_part = zip(*parts, strict=True)  # the overrides of all jobs before the results of any
    table: Table = {name: [] for rows in by_part for row in rows for name in row}
    for plan, facts, results in parts:
        row = {**results, **facts, **plan}
        for name, values in table.items():
            values.append(row.get(name))
    write_atomically(folder / CSV, as_csv(table))
    write_atomically(folder / PARQUET, as_parquet(table))


def parts_of(folder: Path, status: JobStatus) -> tuple[Row, Row, Row]:
    """Return the options of a job, its cost and its results."""
    record = flat(in_file(status.folder / RECORD))
    sections = in_file(status.folder / RESULTS)
    plan = {
        "number": status.number,
        "folder": printable(str(status.folder.relative_to(folder))),
        "state": status.state,
        "reason": status.reason,
        **{key_of(o): typed(o.partition("=")[2]) for o in map(printable, status.overrides)},
    }
    facts = {fact: record[fact] for fact in FACTS if fact in record}
    return plan, facts, flat({short(name): content for name, content in sections.items()})


def in_file(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where there is none; of one that is damaged the log says so."""
    try:
        return schemas.read(path, dict[str, Any])
    except FileNotFoundError:
        return {}
    except RunError as error:
        log.warning("%s: the table is without it", printable(str(error)))
        return {}


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
    return ENDINGS.sub("", section).replace("-", "_")


def typed(text: str) -> Value:
    """Return an override's value as the number or truth value that it spells."""
    if text in ("null", ""):
        return None
    if text[0] == text[-1] and text[0] in "'\"" and len(text) > 1:
        return text[1:-1]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    plain = text.replace("_", "") if re.fullmatch(r"[\d_]+(\.[\d_]+)?", text) else text
    for kind in (int, float):
        try:
            return kind(plain)
        except ValueError:
            continue
    return text


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
