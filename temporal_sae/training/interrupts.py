"""Signals as requests that are answered at the next step boundary."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from temporal_sae import agreement, processes

STOP = (signal.SIGINT, signal.SIGTERM)
PREEMPTION = signal.SIGUSR2


class StopRequest:
    """While open, SIGINT and SIGTERM ask for a stop; a second SIGINT interrupts at once.

    SIGUSR2 is how a cluster says that the job's time is over. Where somebody (submitit) has put a
    handler for it, which puts the job back into the queue and ends the process, that handler waits
    until a checkpoint is written and `hand_on` calls it; otherwise the signal is left alone.
    Under such a handler SIGTERM asks for a checkpoint only. It announces that the job is preempted
    or cancelled, and a preempted one is queued again only if it has not ended by itself.

    Outside the main thread, where Python cannot set handlers, it does nothing.

    Attributes:
        signal: the SIGINT or SIGTERM that this process has got.
        preempted: whether it has got a SIGUSR2 that has not been handed on.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.preempted = False
        self._previous: dict[signal.Signals, Any] = {}
        self._is_queued_again = callable(signal.getsignal(PREEMPTION))

    def __enter__(self) -> StopRequest:
        try:
            for number in STOP:
                self._previous[number] = signal.signal(number, self._on_signal)
            if self._is_queued_again:
                self._previous[PREEMPTION] = signal.signal(PREEMPTION, self._on_preemption)
        except ValueError:
            return self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self.preempted and error is None:  # it came after the last step
            signal.raise_signal(PREEMPTION)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal != signal.SIGINT:  # which asks for more
            self.signal = signal.Signals(number)

    def _on_preemption(self, number: int, frame: FrameType | None) -> None:
        self.preempted = True

    def agreed(self) -> signal.Signals | None:
        """What is asked of the processes of a run, any of which may have got a signal.

        All have to call this after the same step, and all get the same answer: SIGINT, SIGTERM or,
        where nobody wants to stop, SIGUSR2. Every one of them is worth a checkpoint.
        """
        got = (self.signal == signal.SIGINT, self.signal == signal.SIGTERM, self.preempted)
        interrupted, terminated, preempted = processes.largest_of(*map(int, got))
        if interrupted:
            return signal.SIGINT
        if terminated and self.ends(signal.SIGTERM):
            return signal.SIGTERM
        if got[1]:  # only what has been told: another signal may have come since
            self.signal = None
        if preempted:
            return PREEMPTION
        return signal.SIGTERM if terminated else None

    def ends(self, number: signal.Signals) -> bool:
        """Whether a signal that all have agreed on ends the run."""
        return number == signal.SIGINT or (number == signal.SIGTERM and not self._is_queued_again)

    def hand_on(self) -> None:
        """Call the handler that SIGUSR2 had before, in the first process.

        Where it ends that process by SystemExit all end alike; where it returns all go on.
        """
        self.preempted = False
        handler = self._previous.get(PREEMPTION, lambda number, frame: None)
        agreement.together(lambda: handler(PREEMPTION, None))
