"""Waiting for the jobs of a sweep in SLURM, with what there is to tell meanwhile."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from temporal_sae.commands import module_command
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.session import say
from temporal_sae.sweep.slurm_jobs import (
    SECONDS_BETWEEN_LOOKS,
    Outcome,
    SlurmJob,
    ask_queue,
    state_of_the_past,
)
from temporal_sae.sweep.status import read_sweep
from temporal_sae.sweep.table import LiveTable

SECONDS_BETWEEN_QUESTIONS = 5.0
# From the end of a job until it counts as lost: its file may travel through a slow file system,
# and a job that is put back into the queue may seem to have ended for a moment.
SECONDS_UNTIL_LOST = 4.0
SECONDS_OF_SILENCE = 60.0


class Watch:
    """Waits for jobs; the ones that are lost do not keep the others waiting.

    Args:
        jobs: in the order in which their outcomes are wanted.
        on_silence: called once each time that SLURM has not answered for a minute.
    """

    def __init__(self, jobs: Sequence[SlurmJob], on_silence: Callable[[], None]) -> None:
        self.jobs, self.on_silence = jobs, on_silence
        self.outcomes: dict[str, Outcome] = {}
        self._ended: dict[str, tuple[float, str]] = {}
        self._asked = self._answered = time.monotonic()
        self._complained = False

    @property
    def open(self) -> list[SlurmJob]:
        """Jobs of which the outcome is not known yet."""
        return [job for job in self.jobs if job.number not in self.outcomes]

    def look(self) -> bool:
        """Collect what is there to collect; returns whether some jobs are still open."""
        for job in self.open:
            if (outcome := job.outcome()) is not None:
                self.outcomes[job.number] = outcome
        if self.open and time.monotonic() - self._asked >= SECONDS_BETWEEN_QUESTIONS:
            self._look_for_ended(ask_queue())
            self._asked = time.monotonic()
        for number, (since, state) in self._ended.items():
            if number not in self.outcomes and time.monotonic() - since >= SECONDS_UNTIL_LOST:
                job = next(job for job in self.jobs if job.number == number)
                self.outcomes[number] = job.outcome() or Outcome(reason_of_loss(job, state))
        return bool(self.open)

    def _look_for_ended(self, queue: dict[str, str] | None) -> None:
        now = time.monotonic()
        if queue is None:
            if not self._complained and now - self._answered >= SECONDS_OF_SILENCE:
                self._complained = True
                self.on_silence()
            return
        self._answered, self._complained = now, False
        for job in self.open:
            state = queue.get(job.number)
            if job.is_live(state):
                self._ended.pop(job.number, None)
            else:
                self._ended.setdefault(job.number, (now, state or ""))


def reason_of_loss(job: SlurmJob, state: str) -> str:
    """Return the reason that a job has left nothing, in one line."""
    state = state or state_of_the_past(job.number)
    code = job.exit_code()
    if code and state in ("", "FAILED", "RUNNING"):
        what = f"killed by {signal_name(code - 128)}" if code > 128 else f"exit code {code}"
    else:
        what = "ended without a result" if state in ("", "COMPLETED", "RUNNING") else state
    words = job.last_words()
    return f"SLURM job {job.number}: {what}{f' ({words})' if words else ''}"


def signal_name(number: int) -> str:
    """`SIGKILL` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def wait_for(jobs: Mapping[str, SlurmJob], sweep: SweepFolder) -> list[Outcome]:
    """Show how the sweep goes on until all jobs, by the names of their folders, have ended."""
    from rich.console import Console

    watch = Watch(list(jobs.values()), lambda: say("SLURM does not answer; waiting until it does"))
    told: set[str] = set()
    with LiveTable(lambda: read_sweep(sweep.path), Console()) as table:
        while watch.look():
            for name, job in jobs.items():
                outcome = watch.outcomes.get(job.number)
                if outcome and outcome.reason and name not in told:
                    told.add(name)
                    sweep.note_reason(name, outcome.reason)
            table.update()
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return [watch.outcomes[job.number] for job in jobs.values()]


def tell_how_to_go_on(jobs: Iterable[SlurmJob], sweep: SweepFolder) -> None:
    """Print how to handle jobs that are left alone; the sweeper says how to wait for them."""
    going = [job for job in jobs if job.outcome() is None]
    if going:
        shown = Path(os.path.relpath(sweep.path))
        folder = shlex.quote(str(sweep.path if shown.parts[:1] == ("..",) else shown))
        say(f"{len(going)} jobs go on; to cancel them: scancel {' '.join(arrays(going))}")
        command = module_command("temporal_sae.sweep", str(folder), "--watch")
        say(f"to watch them: {command}")


def arrays(jobs: Iterable[SlurmJob]) -> list[str]:
    """Return the ids that stand for all these jobs."""
    return list(dict.fromkeys(job.array for job in jobs))
