"""Loggers of metrics: always `metrics.jsonl`, and elsewhere on top where asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from temporal_sae.files import open_regular, write_atomically
from temporal_sae.registry import component
from temporal_sae.schemas import metrics_of

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
LONGEST_LINE = 2**20  # bytes; a longer one is broken in any case
Metrics = dict[str, float]


@dataclass(frozen=True)
class About:
    """Facts about a run that a logger shows.

    Args:
        config: all its options.
        overrides: those that were typed.
        beside_others: whether other runs are done in this process at the same time.
    """

    config: Mapping[str, Any]
    overrides: Sequence[str] = ()
    beside_others: bool = False


@runtime_checkable
class MetricsLogger(Protocol):
    """Receives one dictionary of numbers per logged step, and one when the run is evaluated.

    `rewind` comes before the first step, also of a run that is continued, which writes the steps
    after that one again. `finish` comes in any case, with the exit code of the run.
    """

    def start(self, about: About) -> None: ...
    def rewind(self, step: int) -> None: ...
    def log(self, step: int, metrics: Metrics) -> None: ...
    def summarise(self, metrics: Metrics) -> None: ...
    def finish(self, exit_code: int) -> None: ...


@component("logger")
class JsonlLogger:
    """One JSON object a line in `metrics.jsonl`.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / METRICS

    def start(self, about: About) -> None:
        """The run keeps its config itself."""

    def rewind(self, step: int) -> None:
        """Forget lines after `step` (which a resumed run writes again) and broken ones."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept, broken = [], 0
        with suppress(FileNotFoundError), open_regular(self.path) as file:
            for line in iter(partial(file.readline, LONGEST_LINE), b""):
                metrics = metrics_of(line)
                broken += metrics is None
                if metrics and metrics["step"] <= step:
                    kept.append(line.rstrip(b"\n") + b"\n")
        if broken:
            log.warning("%s: %d broken lines are left out", self.path, broken)
        write_atomically(self.path, b"".join(kept))

    def log(self, step: int, metrics: Metrics) -> None:
        """Append a line."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def summarise(self, metrics: Metrics) -> None:
        """They are in the run's results."""

    def finish(self, exit_code: int) -> None:
        """Nothing is held open."""


class NoLogger:
    """Of the processes that have another one to write for them."""

    def start(self, about: About) -> None:
        """Nothing."""

    def rewind(self, step: int) -> None:
        """Nothing."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Nothing."""

    def summarise(self, metrics: Metrics) -> None:
        """Nothing."""

    def finish(self, exit_code: int) -> None:
        """Nothing."""
