"""The folder of a sweep: which jobs it has, and who works in it.

    sweep.json             the command, the launcher, every job's number, folder and overrides, and
                           the primary metric if one was fixed
    .lock                  held by the sweep that is running
    .sweep/configs.json    the whole config of every job that is to do; workers compose nothing
    .sweep/N.json          how often job N was tried, and how it has ended; see `claims`
    .sweep/N.lock          held by the worker that has job N

A job is known by its overrides. So the same command finds its jobs again, and a command with more
values adds jobs to those that are there.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from temporal_sae import schemas
from temporal_sae.errors import RunError
from temporal_sae.files import write_atomically, write_json
from temporal_sae.locks import ProcessLock, Timeout
from temporal_sae.overrides.keys import identity, varying_keys, what_varies
from temporal_sae.sweep.states import States

NOTE = "sweep.json"
WORK = ".sweep"
CONFIGS = "configs.json"
SLURM_ID = re.compile(r"\d+")
LARGEST = 2**63
LOCK = ".lock"
SECONDS_TO_LOCK = 0.2  # not 0: whoever looks whether a sweep is running holds it for a moment


@dataclass(frozen=True)
class Job:
    """One run of a sweep, as `sweep.json` has it."""

    number: int  # its place in the sweep, from 0
    folder: str  # its name, below the sweep's
    overrides: tuple[str, ...]  # as typed on a command line
    reason: str | None = None  # why it has failed, as earlier versions have noted it here

    @property
    def identity(self) -> frozenset[str]:
        """Return what two jobs that compute the same have in common."""
        return identity(self.overrides)


def is_inside(folder: str) -> bool:
    """Return whether the name of a job's folder can only be that of one below the sweep's."""
    try:
        longest = max(map(len, os.fsencode(folder).split(b"/")))
    except ValueError:  # half of a surrogate pair
        return False
    path = Path(folder)
    is_below = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    return is_below and "\0" not in folder and longest < 256


def wrong_place(note: schemas.SweepNote) -> str | None:
    """Return a note that would lead to another place than the sweep's, in words; None without one.

    SLURM's id becomes part of a command, too.
    """
    numbers: set[int] = set()
    folders: set[Path] = set()
    for n, job in enumerate(note["jobs"]):
        if not is_inside(job["folder"]):
            return f"jobs.{n}.folder={job['folder']!r}: must be a folder below the sweep's"
        if not 0 <= job["number"] < LARGEST:
            return f"jobs.{n}.number={job['number']}: must be a whole number of at least 0"
        if job["number"] in numbers:
            return f"jobs.{n}.number={job['number']}: must be no other job's"
        if Path(job["folder"]) in folders:
            return f"jobs.{n}.folder={job['folder']!r}: must be no other job's"
        numbers.add(job["number"])
        folders.add(Path(job["folder"]))
    array = note.get("slurm_job")
    if array is not None and not SLURM_ID.fullmatch(array):
        return f"slurm_job={array!r}: must be an id such as 12"
    return None


class SweepFolder:
    """The folder of a sweep; `sweep.json` in it is read anew by every call."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.work = self.path / WORK  # what workers have to know of each other
        self.states = States(self.work)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other sweeps out of the folder, which is created if it is missing.

        Raises:
            RunError: it cannot be written, or another sweep is running in it.
        """
        lock = ProcessLock(self.path / LOCK, SECONDS_TO_LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            told = f"{self.path}: another sweep is running in this folder{lock.holder()}"
            raise RunError(told) from None
        except OSError as error:
            told = f"must be a folder that can be written ({error.strerror})"
            raise RunError(f"hydra.sweep.dir={self.path}: {told}") from error
        try:
            yield
        finally:
            lock.release()

    def exists(self) -> bool:
        """Return whether there is a sweep."""
        return os.path.exists(self.path / NOTE)

    def check(self) -> None:
        """Keep whoever works here from making the folder again, once somebody has removed it.

        Raises:
            RunError: it is gone.
        """
        if not self.exists():
            raise RunError(f"{self.path}: the folder was removed while the sweep was going on")

    def read(self) -> dict[str, Any]:
        """Return what `sweep.json` says; without one, an empty sweep.

        Raises:
            RunError: it cannot be read.
        """
        try:
            note = schemas.read(self.path / NOTE, schemas.SweepNote)
            if problem := wrong_place(note):
                raise RunError(f"{self.path / NOTE}: cannot be read ({problem})")
        except FileNotFoundError:
            return {"command": "", "launcher": "", "jobs": []}
        except RunError as error:
            told = f"{error}; choose another hydra.sweep.dir or move the folder away"
            raise RunError(told) from error
        return {**note}

    def jobs(self) -> list[Job]:
        """Return all jobs, by number."""
        return jobs_of(self.read())

    def configs(self) -> dict[int, dict[str, Any]]:
        """Return the config of every job that is to do, by number; anybody may have written them.

        Raises:
            RunError: they cannot be read.
        """
        configs = schemas.read(self.work / CONFIGS, dict[str, dict[str, Any]])
        return {int(number): config for number, config in configs.items() if number.isdecimal()}

    def write_configs(self, configs: Mapping[int, dict[str, Any]]) -> None:
        """Leave the workers the config of every job that is to do."""
        self.work.mkdir(exist_ok=True)
        # NaN and infinities stay: a job with one is refused by its name, and not as null.
        content = json.dumps({str(n): exact(config) for n, config in configs.items()})
        write_atomically(self.work / CONFIGS, content)

    def plan(
        self,
        command: str,
        launcher: str,
        wanted: Sequence[Sequence[str]],
        folder_of: Callable[[int, list[str]], str],
        *,
        all_of_them: bool = True,
    ) -> list[Job]:
        """Find or add the jobs with these overrides, and note the command.

        Args:
            command: repeats the sweep in this folder.
            launcher: name of the launcher.
            wanted: the overrides of each job.
            folder_of: gives the name of a new job's folder, from its number and its overrides.
            all_of_them: refuse a folder with jobs that are not wanted.

        Returns:
            The job of each of `wanted`, in their order; its overrides are those now wanted.

        Raises:
            RunError: the folder holds another sweep, two jobs would share a folder, or one's would
                not lie below the sweep's.
        """
        note = self.read()
        known = {job.identity: job for job in jobs_of(note)}
        if all_of_them:
            self._forget_strangers(known, wanted)
        number = max((job.number for job in known.values()), default=-1)
        for overrides in wanted:
            name = identity(overrides)
            if name not in known:
                number += 1
                known[name] = Job(number, folder_of(number, list(overrides)), tuple(overrides))
            known[name] = replace(known[name], overrides=tuple(overrides))
        self._refuse_wrong_folders(list(known.values()))
        note |= {"command": command, "launcher": launcher}
        jobs = sorted(known.values(), key=lambda job: job.number)
        note["jobs"] = [
            {key: value for key, value in asdict(job).items() if value is not None} for job in jobs
        ]
        write_json(self.path / NOTE, note)
        return [known[identity(overrides)] for overrides in wanted]

    def _forget_strangers(
        self, known: dict[frozenset[str], Job], wanted: Sequence[Sequence[str]]
    ) -> None:
        """Take out the jobs that are not wanted, all of which could not even start."""
        names = set(map(identity, wanted))
        strangers = {name: job for name, job in known.items() if name not in names}
        if lost := [job for job in strangers.values() if not self._could_not_start(job)]:
            varying = varying_keys([*(job.overrides for job in known.values()), *wanted])
            example = what_varies(lost[0].overrides, varying) or "defaults"
            raise RunError(
                f"{self.path}: holds another sweep ({len(lost)} of its {len(known)} jobs are "
                f"not in this command, such as {example}); choose another hydra.sweep.dir"
            )
        for name in strangers:
            del known[name]

    def _could_not_start(self, job: Job) -> bool:
        outcome = self.states.read(job.number).outcome
        told = job.reason or (outcome and outcome.reason)
        return bool(told) and not (self.path / job.folder).exists()

    def _refuse_wrong_folders(self, jobs: list[Job]) -> None:
        owners: dict[str, Job] = {}
        for job in jobs:
            option = f"hydra.sweep.subdir={job.folder}"
            if not is_inside(job.folder):
                raise RunError(f"{option}: must be a folder below hydra.sweep.dir")
            first = owners.setdefault(job.folder, job)
            if first is not job:
                two = f"{first.number} and {job.number}"
                raise RunError(f"{option}: must differ between jobs {two}")

    def note(self, key: str, value: Any) -> None:
        """Note something about the sweep as a whole."""
        write_json(self.path / NOTE, self.read() | {key: value})


def jobs_of(note: Mapping[str, Any]) -> list[Job]:
    """Return the jobs of a sweep, by number, from its note."""
    return [
        Job(job["number"], job["folder"], tuple(job["overrides"]), job.get("reason"))
        for job in note["jobs"]
    ]


def exact(value: Any) -> Any:
    """Return a part of a config as JSON holds it: a whole number beyond 64 bits is rounded."""
    if isinstance(value, dict):
        return {str(key): exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, int) and not -LARGEST <= value < LARGEST:
        return float(value) if abs(value) < 10**300 else math.inf if value > 0 else -math.inf
    return value
