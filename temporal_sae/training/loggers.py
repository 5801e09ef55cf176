"""Destinations of metrics: always `metrics.jsonl`, and elsewhere on top where asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from temporal_sae.errors import reason_of
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


class EndTable(NamedTuple):
    """The table at the end of a run, beside its neighbours.

    Attributes:
        header, rows: its cells.
        markdown: all of it, with what its columns are.
    """

    header: list[str]
    rows: list[list[str]]
    markdown: str


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


@runtime_checkable
class TakesTable(Protocol):
    """A logger that takes the table at the end of a run, too."""

    def tabulate(self, table: EndTable) -> None: ...


@component("logger")
class JsonlLogger:
    """One JSON object a line in `metrics.jsonl`.

    Args:
        folder: the run's folder.

    Attributes:
        writes_metrics: true of this class and those that inherit, of which a run has one.
    """

    writes_metrics = True

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


def logged_steps(folder: Path, last: int) -> Iterator[tuple[int, Metrics]]:
    """Yield the steps up to `last` that are in `metrics.jsonl`, if there is one, with metrics."""
    with suppress(FileNotFoundError), open_regular(folder / METRICS) as file:
        for line in file:
            row = json.loads(line)
            if (step := row.pop("step")) <= last:
                yield step, row


class Loggers:
    """`metrics.jsonl` and everything else that a run logs to.

    The folder is complete in any case: only `metrics.jsonl` can end a run. What fails elsewhere is
    said once, and nothing more goes there.

    Args:
        jsonl: writes `metrics.jsonl`.
        others: by the names under which they are spoken of.
    """

    def __init__(self, jsonl: JsonlLogger, others: Mapping[str, MetricsLogger]) -> None:
        self._jsonl, self.others = jsonl, dict(others)

    def start(self, about: About) -> None:
        """Tell all of them what the run is."""
        self._jsonl.start(about)
        self._each(lambda logger: logger.start(about))

    def rewind(self, step: int) -> None:
        """Forget what came after `step`; the others find the file as it is then."""
        self._jsonl.rewind(step)
        self._each(lambda logger: logger.rewind(step))

    def log(self, step: int, metrics: Metrics) -> None:
        """Hand on the metrics of a step."""
        self._jsonl.log(step, metrics)
        self._each(lambda logger: logger.log(step, metrics))

    def summarise(self, metrics: Metrics) -> None:
        """Hand on what the evaluation has found."""
        self._jsonl.summarise(metrics)
        self._each(lambda logger: logger.summarise(metrics))

    def tabulate(self, table: Callable[[], EndTable]) -> None:
        """Hand on the table at the end, which is made only for those that take it."""
        self._each(
            lambda logger: logger.tabulate(table()) if isinstance(logger, TakesTable) else None
        )

    def finish(self, exit_code: int) -> None:
        """Close all of them."""
        self._jsonl.finish(exit_code)
        self._each(lambda logger: logger.finish(exit_code))

    def _each(self, call: Callable[[MetricsLogger], None]) -> None:
        for name, logger in list(self.others.items()):
            try:
                call(logger)
            except Exception as error:  # noqa: BLE001 - whatever it is, the run can go on without
                log.warning("%s: %s; the run goes on with %s", name, reason_of(error), METRICS)
                del self.others[name]
                with suppress(Exception):
                    logger.finish(1)


class NoLogger:
    """Of the processes that have another one to write for them; to inherit what is not needed."""

    def start(self, about: About) -> None:
        """Nothing."""

    def rewind(self, step: int) -> None:
        """Nothing."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Nothing."""

    def summarise(self, metrics: Metrics) -> None:
        """Nothing."""

    def tabulate(self, table: Any) -> None:
        """Nothing."""

    def finish(self, exit_code: int) -> None:
        """Nothing."""
