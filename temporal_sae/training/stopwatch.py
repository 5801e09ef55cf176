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
        self._last = now()
        self._began = self._last - seconds
        self._tokens = tokens

    def seconds(self) -> float:
        """Seconds of training, of all parts of the run."""
        return now() - self._began

    def tokens_per_second(self, tokens: int) -> float:
        """Return the rate since the last call, or the beginning, after `tokens` in all."""
        time, trained = now() - self._last, tokens - self._tokens
        self._last, self._tokens = self._last + time, tokens
        return trained / max(time, 1e-9)


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
