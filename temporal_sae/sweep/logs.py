"""The log of each job, `log.txt`, where one process has several of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from temporal_sae.files import open_to_append
from temporal_sae.report.sweep_facts import RECORD

LOG = "log.txt"


class JobLog:
    """The log of one job, of which nothing is written before its run has begun.

    It is opened for every line: two hundred jobs would take up the files that a process may have.
    It begins with the place where the job runs.
    """

    def __init__(self, folder: Path, place: str) -> None:
        when = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        self.folder = folder
        self._lines = [f"--- {when} · {place} · process {os.getpid()}"]

    def write(self, line: str) -> None:
        """Add a line, at once where the run has begun."""
        self._lines.append(line)
        if (self.folder / RECORD).exists():
            self.flush()

    def flush(self) -> None:
        """Write what there is to write; a log is not worth a run, so what fails is left out."""
        data = "".join(f"{line}\n" for line in self._lines).encode(errors="replace")
        self._lines.clear()
        with suppress(OSError):
            descriptor = open_to_append(self.folder / LOG)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)


class JobLogs(logging.Handler):
    """Adds each record to the log of the job that the process is busy with."""

    def __init__(self) -> None:
        super().__init__()
        self._current: JobLog | None = None
        self.several = False  # jobs side by side

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While open, it gets all records; of one among several jobs others get only warnings."""
        root = logging.getLogger()
        others = root.handlers[:]
        for handler in others:
            handler.addFilter(self._is_for_all)
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)
            for handler in others:
                handler.removeFilter(self._is_for_all)

    def _is_for_all(self, record: logging.LogRecord) -> bool:
        return self._current is None or not self.several or record.levelno > logging.INFO

    @contextmanager
    def about(self, log: JobLog | None) -> Iterator[None]:
        """While open, all records are about this job; None: about none."""
        before, self._current = self._current, log
        try:
            yield
        finally:
            self._current = before

    def emit(self, record: logging.LogRecord) -> None:
        """Add a record."""
        if self._current is not None:
            self._current.write(self.format(record))
