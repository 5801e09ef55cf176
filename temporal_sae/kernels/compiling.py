"""Compilation of the CPU kernels, which is announced and stops the clocks.

They are kept on the disk, so that it happens in the first run after an installation, when a loop is
first called with arrays of some type.
"""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)


class _Compiling:
    """Adds up the time; what a function calls is compiled within its own time."""

    def __init__(self) -> None:
        self.seconds, self._depth, self._began, self._said = 0.0, 0, 0.0, False

    def begin(self) -> None:
        if not self._said:
            log.info("compiling kernels (once; up to a minute)")
            self._said = True
        if self._depth == 0:
            self._began = time.perf_counter()
        self._depth += 1

    def end(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._began


_compiling = _Compiling()


def seconds() -> float:
    """Return the seconds this process has been compiling so far, one thing at a time."""
    return _compiling.seconds


def watch() -> None:
    """Begin to notice; called once, by those who import the compiler."""
    from numba.core import event  # slow to import, and not there for a GPU's kernels

    class Listener(event.Listener):
        def on_start(self, event: event.Event) -> None:
            _compiling.begin()

        def on_end(self, event: event.Event) -> None:
            _compiling.end()

    event.register("numba:compile", Listener())
