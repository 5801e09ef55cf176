"""Time of a run and of a part of its steps, without waiting for a GPU; compiling does not count."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from temporal_sae.kernels import compiling


def now() -> float:
    """Seconds on a clock that stands still while kernels are compiled."""
    return time.perf_counter() - compiling.seconds()


class Clock:
    """Seconds of training so far, and the rate since it was last asked for.

    Args:
        seconds: of the parts of the run before this one.
        tokens: that were trained on in them.
    """

    def __init__(self, seconds: float = 0.0, tokens: int = 0) -> None:
        self._seconds = self._last = seconds
        self._tokens = tokens
        self._since: float | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time inside the block."""
        self._since = now()
        try:
            yield
        finally:
            self._seconds, self._since = self.seconds(), None

    def add(self, seconds: float) -> None:
        """Count seconds that have passed elsewhere; negative ones were not this run's."""
        self._seconds += seconds

    def seconds(self) -> float:
        """Seconds of training, of all parts of the run."""
        return self._seconds + (0.0 if self._since is None else now() - self._since)

    def tokens_per_second(self, tokens: int) -> float:
        """Return the rate since the last call, or the beginning, after `tokens` in all."""
        seconds = self.seconds()
        rate = (tokens - self._tokens) / max(seconds - self._last, 1e-9)
        self._last, self._tokens = seconds, tokens
        return rate


class Stopwatch:
    """Accumulated seconds of every `with stopwatch.running():` block.

    On CUDA, events are recorded in the stream and read only by `seconds`, which synchronises.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.restart(0.0)

    def restart(self, seconds: float) -> None:
        """Count on from `seconds`."""
        self._seconds = seconds
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time inside the block."""
        if self._cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._pending.append((begin, end))
        else:
            start = now()
            yield
            self._seconds += now() - start

    def seconds(self) -> float:
        """Seconds so far."""
        for begin, end in self._pending:
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000
        self._pending = []
        return self._seconds
