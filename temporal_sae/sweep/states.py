"""The state of each job, `.sweep/N.json`, by which workers and the command know of it."""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from temporal_sae import schemas
from temporal_sae.errors import RunError, one_line
from temporal_sae.files import write_json

AGAIN = 75  # the exit code of a worker whose time is over: queue it again


def worker_name(pid: int) -> str:
    """Return the name of the worker that is this process of this machine."""
    return f"{socket.gethostname()}:{pid}"


@dataclass(frozen=True)
class Outcome:
    """The end of a job."""

    reason: str | None = None  # why it has failed, in one line; None: it has not
    refused: bool = False  # by a mistake that a person can correct


@dataclass(frozen=True)
class State:
    """The work that was put into a job since the command was given."""

    attempts: int = 0  # to do it, without a newer checkpoint
    step: int = 0  # of the newest checkpoint when the last of them began
    worker: str | None = None  # that made it; see `worker_name`
    outcome: Outcome | None = None  # None: it is open


UNTRIED = State()


class States:
    """The states of all jobs, a file each in the folder `.sweep`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        """Return the file of a job."""
        return self.folder / f"{number}.json"

    def lock(self, number: int) -> Path:
        """Return the file that is locked by the worker that has a job."""
        return self.folder / f"{number}.lock"

    def read(self, number: int) -> State:
        """Return the state of a job; one that cannot be read is that of a job nobody has tried."""
        try:
            said = schemas.read(self.path(number), schemas.JobState)
        except (FileNotFoundError, RunError):
            return UNTRIED
        ended = said.get("outcome")
        outcome = Outcome(one_line(ended["reason"]), ended["refused"]) if ended else None
        return State(said["attempts"], said["step"], said.get("worker"), outcome)

    def write(self, number: int, state: State) -> None:
        """Replace the state of a job."""
        self.folder.mkdir(exist_ok=True)
        write_json(self.path(number), asdict(state))

    def forget(self, number: int) -> None:
        """Make a job one that nobody has tried."""
        self.path(number).unlink(missing_ok=True)
