"""Wall-clock seconds of runs that are done side by side, each second counted once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol


class Timed(Protocol):
    """A run that adds up its seconds."""

    wall_seconds: float


class SharedTime:
    """Divides the time that passes among the runs that it passes for."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def divide(self, runs: Sequence[Timed], own: Sequence[float] = ()) -> None:
        """Give the runs the seconds since the last call.

        Args:
            runs: for which they have passed.
            own: seconds that passed for one of them alone; the rest is divided equally.
        """
        now = time.monotonic()
        rest, self._since = max(0.0, now - self._since - sum(own)), now
        for n, run in enumerate(runs):
            run.wall_seconds += rest / len(runs) + (own[n] if own else 0.0)
