"""Runs the jobs of a sweep on slots, each of which has at most one job at a time."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

from temporal_sae import signals
from temporal_sae.errors import RunError
from temporal_sae.sweep.host import Host, HostLost, ended_by, free_port
from temporal_sae.sweep.messages import Ended, Outcome, Start, Started
from temporal_sae.sweep.slots import Slot, Slots, job_environment

POLL_SECONDS = 0.2
SECONDS_ALONE = 10.0  # for the other processes of a job of which one has failed


@dataclass
class Running:
    """A job that has slots.

    Args:
        slots: one for each of its processes.
        ranks: its processes that have not ended.
        outcome: what it has come to so far.
        failed_at: when the first of its processes failed.
    """

    slots: tuple[Slot, ...]
    ranks: set[int]
    outcome: Outcome = field(default_factory=Outcome)
    failed_at: float | None = None


class StopRequests:
    """While open, counts stop signals instead of letting them interrupt anything."""

    def __init__(self) -> None:
        self.count = 0
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        try:
            for number in signals.STOP:
                if number != signal.SIGHUP or not signals.is_ignored(number):
                    self._previous[number] = signal.signal(number, self._on_signal)
        except ValueError:
            pass  # not the main thread: signals are somebody else's
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.signal = self.signal or number


class Pool:
    """Gives slots to jobs until all have run.

    Args:
        jobs: the overrides of each.
        slots: where they can run.
        processes_per_job: how many slots each of them takes.
        first_number: what Hydra calls the first job.
        start_host: begins a process that starts jobs.
        say: prints a line.
    """

    def __init__(
        self,
        jobs: Sequence[Sequence[str]],
        slots: Slots,
        processes_per_job: int,
        first_number: int,
        start_host: Callable[[], Host],
        say: Callable[[str], None],
    ) -> None:
        self.jobs, self.slots, self.processes_per_job = jobs, slots, processes_per_job
        self.first_number, self.start_host, self.say = first_number, start_host, say
        self.waiting = deque(range(len(jobs)))
        self.running: dict[int, Running] = {}
        self.outcomes: dict[int, Outcome] = {}

    def run(self, look: Callable[[], None]) -> list[Outcome]:
        """Run all jobs.

        Args:
            look: called a few times a second.

        Returns:
            How each job has ended.

        Raises:
            RunError: no job can be started.
            KeyboardInterrupt: a stop signal; the jobs have stopped, and left what they need to
                be continued.
        """
        with StopRequests() as stop:
            while self.running or (self.waiting and not stop.count):
                self._run_with_host(stop, look)
        if stop.signal is not None:
            raise signals.Terminated(stop.signal)
        return [self.outcomes[job] for job in range(len(self.jobs))]

    def _run_with_host(self, stop: StopRequests, look: Callable[[], None]) -> None:
        """Run jobs until there are none left, or the process that starts them is lost."""
        answered = started = 0
        with self.start_host() as host:
            try:
                while self.running or (self.waiting and not stop.count):
                    if host.is_ready and not stop.count:
                        started += self._start_waiting(host)
                    for message in host.messages(POLL_SECONDS):
                        self._take(message)
                    self._end_left_over(host)
                    if stop.count > answered:
                        answered = stop.count
                        self._stop(host, first=answered == 1)
                    look()
            except HostLost as lost:
                if not started:
                    raise RunError(f"hydra/launcher=local: no job can start ({lost})") from None
                host.end_lost()
                for job in list(self.running):
                    self._finish(job, Outcome(reason=f"ended with its parent, which was {lost}"))

    def _start_waiting(self, host: Host) -> int:
        """Start jobs that wait while there are free slots; returns how many."""
        n = 0
        while self.waiting and (slots := self.slots.take(self.processes_per_job)):
            job = self.waiting.popleft()
            self.running[job] = Running(slots, set(range(len(slots))))
            port = free_port() if len(slots) > 1 else None
            for rank in range(len(slots)):
                host.start(
                    Start(
                        job,
                        rank,
                        self.first_number + job,
                        tuple(self.jobs[job]),
                        job_environment(slots, rank, port),
                        place_of(slots),
                    )
                )
            n += 1
        return n

    def _take(self, message: Started | Ended) -> None:
        """Note that a process has ended; its job has if it was the last."""
        if isinstance(message, Started):
            return
        running = self.running[message.job]
        running.ranks.discard(message.rank)
        outcome = outcome_of(message)
        if outcome.reason is not None:
            # The first to fail has the reason, for the others only miss it; unless it was silent.
            if running.failed_at is None or running.outcome.wordless:
                running.outcome = outcome
            running.failed_at = running.failed_at or time.monotonic()
        elif message.rank == 0 and running.failed_at is None:
            running.outcome = outcome
        if not running.ranks:
            self._finish(message.job, running.outcome)

    def _finish(self, job: int, outcome: Outcome) -> None:
        self.slots.give_back(self.running.pop(job).slots)
        self.outcomes[job] = outcome

    def _end_left_over(self, host: Host) -> None:
        """Kill processes that wait in vain for another of their job."""
        now = time.monotonic()
        for job, running in self.running.items():
            if running.failed_at is not None and now - running.failed_at > SECONDS_ALONE:
                self._signal(host, job, signal.SIGKILL)
                running.failed_at = now  # they are told again, should that be of use

    def _stop(self, host: Host, first: bool) -> None:
        """Ask all jobs to stop, or end them where they are."""
        if not self.running:
            return
        if first:
            self.say(f"stopping {len(self.running)} jobs; Ctrl-C again ends them at once")
        for job in self.running:
            self._signal(host, job, signal.SIGINT if first else signal.SIGKILL)

    def _signal(self, host: Host, job: int, number: int) -> None:
        for rank in self.running[job].ranks:
            host.signal(job, rank, number)


def outcome_of(message: Ended) -> Outcome:
    """Return the end of a process: its own report, unless a signal has killed it."""
    said = message.outcome
    if said is None or (message.code < 0 and said.reason is None):
        return Outcome(reason=ended_by(message.code))
    return said


def place_of(slots: Sequence[Slot]) -> str:
    """Return the slots of a job, for its log."""
    devices = [slot.device for slot in slots if slot.device is not None]
    if devices:
        return f"GPU {', '.join(devices)}"
    return f"CPU worker {', '.join(str(slot.number) for slot in slots)}"
