"""Facts about the jobs of a sweep, read from their folders: options, record and results."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from temporal_sae import schemas
from temporal_sae.errors import RunError, is_finite, printable
from temporal_sae.metrics import Metric, find_objective

log = logging.getLogger(__name__)

RECORD, RESULTS = "run.json", "results.json"
DEFAULT_OBJECTIVE = "explained_variance"
Value = str | int | float | bool | None


@dataclass(frozen=True)
class JobStatus:
    """The progress of a job of a sweep.

    Args:
        number: its place in the sweep.
        folder: its folder.
        overrides: what it changes.
        state: finished | running | queued | stopped | failed | missing.
        reason: why it has failed, in one line.
        step: the last step whose metrics are written.
        total_steps: of the whole run.
        tokens_per_second: as last written.
        loss: as last written.
        eta_seconds: time left for training.
    """

    number: int
    folder: Path
    overrides: tuple[str, ...]
    state: str
    reason: str | None = None
    step: int = 0
    total_steps: int | None = None
    tokens_per_second: float | None = None
    loss: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True)
class JobFacts:
    """A job with what its folder holds.

    Args:
        status: its state.
        record: the content of its `run.json`, empty where there is none.
        results: the content of its `results.json`, empty where there is none.
    """

    status: JobStatus
    record: dict[str, Any]
    results: dict[str, Any]

    @cached_property
    def options(self) -> dict[str, str]:
        """Return the value of each override by key, as typed."""
        pairs = (printable(override).partition("=") for override in self.status.overrides)
        return {key.lstrip("+~"): value for key, _, value in pairs}

    @cached_property
    def config(self) -> dict[str, Any]:
        """Return its config, as far as it is known."""
        config = self.record.get("config")
        return config if isinstance(config, dict) else {}

    @cached_property
    def finished(self) -> bool:
        """Return whether it is done, so that its results may be compared."""
        return self.status.state == "finished"

    @cached_property
    def objective_name(self) -> str:
        """Return the name of its objective: as typed last, or as it was when the job ran."""
        noted = self.config.get("objective")
        name = self.options.get("objective", noted)
        return name if isinstance(name, str) else DEFAULT_OBJECTIVE

    @cached_property
    def objective(self) -> float | None:
        """Return the value of its objective; None where it was not measured."""
        try:
            return find_objective(self.objective_name, self.results)
        except (RunError, OverflowError):
            return None

    def value(self, metric: Metric) -> float | None:
        """Return a metric; None where it was not measured or is not finite."""
        value = metric.of(self.results)
        return float(value) if value is not None and is_finite(value) else None


def read_jobs(statuses: Sequence[JobStatus]) -> list[JobFacts]:
    """Read the folders of jobs; the log says which files are damaged."""
    return [
        JobFacts(s, _in_file(s.folder / RECORD), _in_file(s.folder / RESULTS)) for s in statuses
    ]


def _in_file(path: Path) -> dict[str, Any]:
    try:
        return schemas.read(path, dict[str, Any])
    except FileNotFoundError:
        return {}
    except RunError as error:
        log.warning("%s: the table is without it", printable(str(error)))
        return {}


def varying(jobs: Sequence[JobFacts]) -> list[str]:
    """Return the keys whose value is not the same in all jobs, in the order of the overrides."""
    keys = dict.fromkeys(key for job in jobs for key in job.options)
    return [key for key in keys if len({job.options.get(key) for job in jobs}) > 1]


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
