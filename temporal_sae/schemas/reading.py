"""Reading of a file by its schema: what does not fit is one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from temporal_sae.errors import RunError, one_line
from temporal_sae.files import parse_json, read_json
from temporal_sae.renamed import current_config, current_override
from temporal_sae.schemas.results import SCORED, Scores
from temporal_sae.schemas.runs import ComparedRecord, EvaluatedRecord, MetricsLine, RunRecord
from temporal_sae.schemas.sweeps import SweepNote

T = TypeVar("T")


def read(path: Path, schema: type[T]) -> T:
    """Return the content of a JSON file, of which at least what `schema` says is as it says.

    Names that earlier versions have given to config keys and values come out as they are today.

    Raises:
        FileNotFoundError: there is none.
        RunError: it cannot be read or does not fit; in one line with its path.
    """
    content = read_json(path)
    if problem := misfit(content, schema):
        raise RunError(f"{path}: cannot be read ({problem})")
    fitting: T = _with_current_names(content, schema)
    return fitting


def _with_current_names(content: Any, schema: Any) -> Any:
    if schema in (RunRecord, ComparedRecord, EvaluatedRecord):
        return {**content, "config": current_config(content["config"])}
    if schema is SweepNote:
        jobs = [
            {**job, "overrides": [*map(current_override, job["overrides"])]}
            for job in content["jobs"]
        ]
        return {**content, "jobs": jobs}
    return content


def read_results(path: Path, sections: Mapping[str, Any] = SCORED) -> dict[str, Any]:
    """`results.json`, with each section checked by the schema of `sections`, or as Scores.

    Raises: as `read`.
    """
    results = read(path, dict[str, dict[str, Any]])
    for name, section in results.items():
        schema = next((s for start, s in sections.items() if name.startswith(start)), Scores)
        if problem := misfit(section, schema):
            raise RunError(f"{path}: cannot be read (in {one_line(name)}: {problem})")
    return results


def metrics_of(line: bytes) -> MetricsLine | None:
    """Return a line of `metrics.jsonl`; None for one that is broken."""
    try:
        content = parse_json(line)
    except ValueError:
        return None
    if misfit(content, MetricsLine):
        return None
    metrics: MetricsLine = content
    return metrics


def misfit(content: Any, schema: Any) -> str | None:
    """Return where and how `content` does not fit, in one line; None where it does."""
    from pydantic import ValidationError  # slow to import

    try:
        _checker(schema).validate_python(content, strict=True, extra="allow")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            return one_line(f"it has no {place}")
        said = str(first["msg"]).replace("Input should be", "must be")
        shown = json.dumps(first["input"], default=str)[:60]
        return one_line(f"{place}={shown}: {said}" if place else said)
    return None


@cache
def _checker(schema: Any) -> Any:
    from pydantic import TypeAdapter  # slow to import

    return TypeAdapter(schema)
