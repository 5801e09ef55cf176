"""Jobs of a SLURM cluster as the launcher sees them: in the queue, ended with a word, or lost.

What a job has to say it writes to a file of its own; the queue is asked only for jobs that end
without a word. So nothing depends on SLURM's accounting, which not every cluster has.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from temporal_sae import schemas
from temporal_sae.errors import (
    JobFailed,
    JobRefused,
    RunError,
    one_line,
    printable,
    reason_of,
)
from temporal_sae.files import open_regular, write_json

OUTCOME = "outcome.json"
EXIT_CODE = "exit_code"  # written by the job's script when its processes have ended
# Everything else (also PREEMPTED and NODE_FAIL on the way back into the queue) may still go on.
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "TIMEOUT",
}
SECONDS_TO_ANSWER = 30  # a client gives up by itself after about 10
SECONDS_BETWEEN_LOOKS = 0.5
# From its end, for a job that SLURM believes to run: a controller that was killed has lost what
# happened in its last seconds, and may find out after half an hour. A job that runs again also
# looks so, until its script starts.
SECONDS_UNTIL_DISBELIEVED = 30.0
LONGEST_REASON = 200
LONGEST_NUMBER = 20
TAIL_BYTES = 64 * 1024
PYTHONS_ERROR = re.compile(r"^[\w.]+(Error|Exception): ")
SLURMS_ERROR = re.compile(r"\berror: ")
ANYTHING = re.compile("")


@dataclass(frozen=True)
class Outcome:
    """The end of a job.

    Args:
        reason: why it has failed, in one line; None if it has not.
        objective: what it has returned, if it has finished.
        refused: whether it has failed by a mistake in its options, before any work.
    """

    reason: str | None
    objective: float | None = None
    refused: bool = False

    @classmethod
    def of_error(cls, error: BaseException) -> Outcome:
        """Tell that a job has failed by an error."""
        return cls(reason_of(error), refused=isinstance(error, JobRefused))

    def error(self) -> JobFailed:
        """Return the error that a job has failed by, as far as it is known here."""
        kind = JobRefused if self.refused else JobFailed
        return kind(self.reason or "no reason is known")

    def write(self, folder: Path) -> None:
        """Leave it for the launcher, in the folder of the SLURM job."""
        write_json(folder / OUTCOME, asdict(self))


@dataclass(frozen=True)
class SlurmJob:
    """One job in the queue.

    Args:
        number: SLURM's id, `12` or `12_3`.
        folder: holds what submitit writes of it.
    """

    number: str
    folder: Path

    @property
    def array(self) -> str:
        """The id that stands for all jobs submitted together."""
        return self.number.split("_")[0]

    def outcome(self) -> Outcome | None:
        """Return the outcome that the job has left; None while there is none."""
        try:
            # A listing, since a network file system may remember for long that a file is missing.
            if OUTCOME not in os.listdir(self.folder):
                return None
            said = schemas.read(self.folder / OUTCOME, schemas.SlurmOutcome)
        except (OSError, RunError):
            return None
        return Outcome(one_line(said["reason"]), said.get("objective"), said.get("refused", False))

    def exit_code(self) -> int | None:
        """Of the job's processes, None while they run."""
        try:
            with open_regular(self.folder / EXIT_CODE) as file:
                return int(file.read(LONGEST_NUMBER))
        except (OSError, ValueError):
            return None

    def is_live(self, state: str | None) -> bool:
        """Return whether it may still do work.

        Args:
            state: what SLURM says, None if the queue does not know the job.
        """
        if state is None or state in ENDED:
            return False
        if state != "RUNNING" or self.exit_code() is None:
            return True
        age = time.time() - (self.folder / EXIT_CODE).stat().st_mtime
        return age < SECONDS_UNTIL_DISBELIEVED

    def last_words(self) -> str:
        """Return the last errors that the job or SLURM wrote, empty if none."""
        for stream in ("err", "out"):
            text = end_of(self.folder / f"{self.number}_0_log.{stream}").decode(errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            for telling in (PYTHONS_ERROR, SLURMS_ERROR, ANYTHING):
                if found := [line for line in lines if telling.search(line)]:
                    return printable(found[-1])[:LONGEST_REASON]
        return ""


def end_of(log: Path) -> bytes:
    """Return the last part of a log, empty where there is none."""
    try:
        with open_regular(log) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read()
    except OSError:
        return b""


def outlive_requeueing() -> None:
    """In a job: let the handler of SIGUSR2 put it back into the queue, whatever that ends first.

    `scontrol requeue` ends all processes of the job, of which it is one: it may not live to say
    that it has been obeyed, and submitit would take that for a failure.
    """
    handler = signal.getsignal(signal.SIGUSR2)
    if not callable(handler):
        return

    def requeue(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except subprocess.CalledProcessError as error:
            if error.returncode != -signal.SIGTERM:
                raise
            sys.exit(-1)

    signal.signal(signal.SIGUSR2, requeue)


def ask_queue() -> dict[str, str] | None:
    """State by id of all the user's jobs that SLURM remembers; None if it does not answer."""
    command = ["squeue", "--me", "--states=all", "--array", "--noheader", "--format=%i|%T"]
    answer = ask(command)
    return None if answer is None else dict(line.split("|", 1) for line in answer.split())


def ask(command: list[str]) -> str | None:
    """Return the output of a client of SLURM, None if it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def state_of_the_past(number: str) -> str:
    """State of a job that the queue has forgotten, if the cluster keeps accounts; else empty."""
    answer = ask(["sacct", "--noheader", "--parsable2", "-X", "--format=State", "--jobs", number])
    words = (answer or "").split()
    return words[0] if words else ""


def still_live(jobs: Iterable[SlurmJob]) -> set[SlurmJob]:
    """Return those of the jobs that are in the queue or run; wait until SLURM answers."""
    asked = list(jobs)
    if not asked:
        return set()
    while (queue := ask_queue()) is None:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return {job for job in asked if job.is_live(queue.get(job.number))}
