"""Shared by the commands of the atlas: its folder held, mistakes in one line, progress."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from temporal_sae.commands import tell
from temporal_sae.errors import RunError
from temporal_sae.files import remove_if_empty
from temporal_sae.locks import ProcessLock, Timeout

SECONDS_BETWEEN_LINES = 10.0
SECONDS_TO_LOCK = 0.2


def print_log() -> None:
    """Print what this package logs, and of others what is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("temporal_sae").setLevel(logging.INFO)


@contextmanager
def held(output: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it is missing.

    Raises:
        RunError: it cannot be written, or another process is at work in it.
    """
    lock = ProcessLock(output / ".lock", SECONDS_TO_LOCK)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(f"{output}: another atlas is being built here{lock.holder()}") from None
    except OSError as error:
        told = f"--output={output}: must be a folder that can be written ({error.strerror})"
        raise RunError(told) from error
    try:
        yield
    finally:
        lock.release()
        remove_if_empty(output)


@contextmanager
def told_of(output: Path) -> Iterator[None]:
    """Say in one line that the disk is full, or that the folder is gone.

    Raises:
        RunError: either.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not output.exists():
            raise RunError(f"{output}: the folder was removed while it was in use") from error
        if line := tell(error, output, "give the same command again"):
            raise RunError(line) from error
        raise


class Lines:
    """Progress as a line every ten seconds."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._what, self._first = "", 0

    def show(self, what: str, done: int, total: int) -> None:
        """Print how much is done, and about how long the rest will take."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._first = what, now, done
        if now - self._last < SECONDS_BETWEEN_LINES or done == self._first:
            return
        self._last = now
        left = (now - self._began) / (done - self._first) * (total - done)
        print(f"{done:,} of {total:,} {what}, {left:.0f} s left", flush=True)
