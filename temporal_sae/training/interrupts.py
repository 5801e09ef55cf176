"""Signals as requests that are answered at the next step boundary."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Any

from temporal_sae import distributed, signals

PREEMPTION = signal.SIGUSR2
SECONDS_OF_PATIENCE = (
    5.0  # with a step that does not end; the two signals of one request are closer
)


class StopRequest:
    """While open, stop signals ask for a stop at the next step; a second Ctrl-C interrupts at once.

    So does a second SIGTERM or SIGHUP, if the first has not been answered for a while: then a step
    hangs, and waiting for its end would be in vain. Signals that are ignored stay so.

    SIGUSR2 is how a cluster says that the job's time is over. Where somebody (a sweep's worker) has
    put a handler for it, which ends the process so that it is queued again, that handler waits
    until a checkpoint is written and `hand_on` calls it; otherwise the signal is left alone.
    Under such a handler SIGTERM asks for a checkpoint only. It announces that the job is preempted
    or cancelled, and a preempted one is queued again only if it has not ended by itself.

    Outside the main thread, where Python cannot set handlers, it does nothing.

    Attributes:
        signal: the stop signal that this process has got.
        preempted: whether it has got a SIGUSR2 that has not been handed on.

    Raises:
        Terminated: on entering, if a signal that came before has been swallowed by a library.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.preempted = False
        self._since = 0.0
        self._is_told = False
        self._previous: dict[signal.Signals, Any] = {}
        self._is_queued_again = callable(signal.getsignal(PREEMPTION))

    def __enter__(self) -> StopRequest:
        signals.obey()
        try:
            for number in signals.STOP:
                if number != signal.SIGHUP or not signals.is_ignored(number):
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
        if error is not None:
            return
        # They came after the last step.
        if self.preempted:
            signal.raise_signal(PREEMPTION)
        if self.signal is not None and not self._is_told and self.ends(self.signal):
            signal.raise_signal(self.signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        waits = self.signal is not None and not self._is_queued_again
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if waits and now - self._since > SECONDS_OF_PATIENCE:
            raise signals.Terminated(number)
        if self.signal is None:
            self._since = now
        if self.signal != signal.SIGINT:  # which asks for more
            self.signal, self._is_told = signal.Signals(number), False

    def _on_preemption(self, number: int, frame: FrameType | None) -> None:
        self.preempted = True

    def agreed(self) -> signal.Signals | None:
        """Return the signal that any process of the run has got, agreed on by all.

        All have to call this after the same step, and all get the same answer: a stop signal or,
        where nobody wants to stop, SIGUSR2. Every one of them is worth a checkpoint.
        """
        got = self.signal
        *asked, preempted = distributed.all_reduce_max(
            *(int(got == number) for number in signals.STOP), int(self.preempted)
        )
        stops = [number for number, is_asked in zip(signals.STOP, asked, strict=True) if is_asked]
        if got is not None and self.signal == got:
            self._is_told = True  # and no other that has come since
        for number in stops:
            if self.ends(number):
                return number
        if self._is_told:
            self.signal = None
        if preempted:
            return PREEMPTION
        return stops[0] if stops else None

    def ends(self, number: signal.Signals) -> bool:
        """Return whether a signal that all have agreed on ends the run."""
        return number == signal.SIGINT or (number in signals.STOP and not self._is_queued_again)

    def hand_on(self) -> None:
        """Call the handler that SIGUSR2 had before, in the first process.

        Where it ends that process by SystemExit all end alike; where it returns all go on.
        """
        self.preempted = False
        handler = self._previous.get(PREEMPTION, lambda number, frame: None)
        distributed.on_rank_zero(lambda: handler(PREEMPTION, None))
