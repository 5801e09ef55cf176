"""Messages between the local launcher and the process that starts jobs for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setup:
    """The first message: what all jobs share.

    Args:
        preload: modules to import before the first job.
        task: a pickled `child.Task`.
    """

    preload: tuple[str, ...]
    task: bytes


@dataclass(frozen=True)
class Ready:
    """The first answer: jobs can be started."""


@dataclass(frozen=True)
class Start:
    """Start one process of a job.

    Args:
        job: number of the job in this launch.
        rank: number of the process in the job.
        number: what Hydra calls the job's number.
        overrides: of the job.
        environment: variables to set, or with None to remove.
        place: where it runs, for the log.
    """

    job: int
    rank: int
    number: int
    overrides: tuple[str, ...]
    environment: dict[str, str | None]
    place: str


@dataclass(frozen=True)
class Send:
    """Send a signal to a process of a job; SIGKILL goes to all that it has started, too."""

    job: int
    rank: int
    number: int


@dataclass(frozen=True)
class Started:
    """A process of a job runs."""

    job: int
    rank: int
    pid: int


@dataclass(frozen=True)
class Outcome:
    """The end of a job, as its process reports it.

    Args:
        objective: what the task has returned, if it is a number.
        reason: why it has failed or stopped, in one line; None: it has not.
        refused: it failed by a mistake that a person can correct.
        wordless: the reason says no more than that it has ended; another process of the job may
            know better.
    """

    objective: float | None = None
    reason: str | None = None
    refused: bool = False
    wordless: bool = False


@dataclass(frozen=True)
class Ended:
    """A process of a job has ended.

    Args:
        job: number of the job in this launch.
        rank: number of the process in the job.
        code: its exit code; below 0: the signal that has killed it.
        outcome: None if it could not say.
    """

    job: int
    rank: int
    code: int
    outcome: Outcome | None


Message = Setup | Ready | Start | Send | Started | Ended
