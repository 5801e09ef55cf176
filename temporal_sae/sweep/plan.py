"""The folder of a sweep: which jobs it has, and who works in it.

    sweep.json    the command, and for every job its number, folder, overrides, SLURM id and, if it
                  has failed, the reason
    .lock         held by the sweep that is running

A job is known by its overrides. So the same command finds its jobs again, and a command with more
values adds jobs to those that are there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from temporal_sae import schemas
from temporal_sae.errors import RunError
from temporal_sae.files import write_json

NOTE = "sweep.json"
SLURM_ID = re.compile(r"\d+(_\d+)?")
LOCK = ".lock"
SECONDS_TO_LOCK = 0.2  # not 0: whoever looks whether a sweep is running holds it for a moment
# Options that may differ between two calls of one sweep: they do not change what its jobs compute.
FREE_TO_CHANGE = (
    "overwrite",
    "debug",
    "device",
    "push_to_hub",
    "objective",
    "plugins",
    "trainer.resume",
    "trainer.checkpoint_every",
    "trainer.keep_every",
    "data.skip_broken",
    "data.changed",
)


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Args:
        number: its place in the sweep, from 0.
        folder: name of its folder, below the sweep's.
        overrides: what it changes, as typed on a command line.
        slurm_job: id of the SLURM job that runs it, if one does.
        reason: why it has failed, in one line, if it has.
    """

    number: int
    folder: str
    overrides: tuple[str, ...]
    slurm_job: str | None = None
    reason: str | None = None

    @property
    def identity(self) -> frozenset[str]:
        """Return what two jobs that compute the same have in common."""
        return identity(self.overrides)


def identity(overrides: Sequence[str]) -> frozenset[str]:
    """Return the overrides that decide what a job computes; their order does not."""
    return frozenset(o for o in overrides if key_of(o) not in FREE_TO_CHANGE)


def key_of(override: str) -> str:
    """`tracker.window_size` of `++tracker.window_size=500`."""
    return override.split("=", 1)[0].lstrip("+~")


def varying_keys(jobs: Sequence[Sequence[str]]) -> set[str]:
    """Keys that do not have the same value in all jobs, from the overrides of each."""
    shared = set.intersection(*map(set, jobs)) if jobs else set()
    return {key_of(override) for job in jobs for override in job if override not in shared}


def what_varies(overrides: Sequence[str], varying: Collection[str]) -> str:
    """Return the overrides of a job that tell it from the others."""
    return " ".join(override for override in overrides if key_of(override) in varying)


def is_inside(folder: str) -> bool:
    """Return whether the name of a job's folder can only be that of one below the sweep's."""
    try:
        longest = max(map(len, os.fsencode(folder).split(b"/")))
    except ValueError:  # half of a surrogate pair
        return False
    path = Path(folder)
    is_below = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    return is_below and "\0" not in folder and longest < 256


def wrong_place(jobs: Sequence[schemas.NotedJob]) -> str | None:
    """Return a note that would lead to another place than the sweep's, in words; None without one.

    SLURM's id of a job is part of the names of files, too.
    """
    for n, job in enumerate(jobs):
        if not is_inside(job["folder"]):
            return f"jobs.{n}.folder={job['folder']!r}: must be a folder below the sweep's"
        number = job.get("slurm_job")
        if number is not None and not SLURM_ID.fullmatch(number):
            return f"jobs.{n}.slurm_job={number!r}: must be an id such as 12 or 12_3"
    return None


class SweepFolder:
    """The folder of a sweep; `sweep.json` in it is read anew by every call.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other sweeps out of the folder, which is created if it is missing.

        Raises:
            RunError: it cannot be written, or another sweep is running in it.
        """
        from temporal_sae.locks import ProcessLock, Timeout  # not for --help

        lock = ProcessLock(self.path / LOCK, SECONDS_TO_LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            told = f"{self.path}: another sweep is running in this folder{lock.holder()}"
            raise RunError(told) from None
        except OSError as error:
            raise RunError(
                f"hydra.sweep.dir={self.path}: must be a folder that can be written "
                f"({error.strerror})"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def exists(self) -> bool:
        """Return whether there is a sweep."""
        return os.path.exists(self.path / NOTE)

    def read(self) -> dict[str, Any]:
        """Return what `sweep.json` says; without one, an empty sweep.

        Raises:
            RunError: it cannot be read.
        """
        try:
            note = schemas.read(self.path / NOTE, schemas.SweepNote)
            if problem := wrong_place(note["jobs"]):
                raise RunError(f"{self.path / NOTE}: cannot be read ({problem})")
        except FileNotFoundError:
            return {"command": "", "launcher": "", "jobs": []}
        except RunError as error:
            raise RunError(
                f"{error}; choose another hydra.sweep.dir or move the folder away"
            ) from error
        return {**note}

    def jobs(self) -> list[Job]:
        """Return all jobs, by number."""
        return [
            Job(
                job["number"],
                job["folder"],
                tuple(job["overrides"]),
                job.get("slurm_job"),
                job.get("reason"),
            )
            for job in self.read()["jobs"]
        ]

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
        old = self.jobs()
        names = {identity(overrides) for overrides in wanted}
        strangers = [job for job in old if job.identity not in names]
        if all_of_them:
            # What could not even start may be corrected and forgotten.
            lost = [job for job in strangers if not job.reason or self._has_folder(job)]
            self._refuse_other_sweep(old, lost, wanted)
            old = [job for job in old if job not in strangers]
        known = {job.identity: job for job in old}
        number = max((job.number for job in old), default=-1)
        planned = []
        for overrides in wanted:
            name = identity(overrides)
            if name not in known:
                number += 1
                known[name] = Job(number, folder_of(number, list(overrides)), tuple(overrides))
            known[name] = replace(known[name], overrides=tuple(overrides))
            planned.append(known[name])
        self._refuse_wrong_folders(list(known.values()))
        note = self.read() | {"command": command, "launcher": launcher}
        self._write(note, list(known.values()))
        return planned

    def _has_folder(self, job: Job) -> bool:
        return (self.path / job.folder).exists()

    def _refuse_other_sweep(
        self, old: list[Job], strangers: list[Job], wanted: Sequence[Sequence[str]]
    ) -> None:
        if strangers:
            varying = varying_keys([*(job.overrides for job in old), *wanted])
            example = what_varies(strangers[0].overrides, varying) or "defaults"
            raise RunError(
                f"{self.path}: holds another sweep ({len(strangers)} of its {len(old)} jobs are "
                f"not in this command, such as {example}); choose another hydra.sweep.dir"
            )

    def _refuse_wrong_folders(self, jobs: list[Job]) -> None:
        owners: dict[str, Job] = {}
        for job in jobs:
            if not is_inside(job.folder):
                raise RunError(
                    f"hydra.sweep.subdir={job.folder}: must be a folder below hydra.sweep.dir"
                )
            other = owners.setdefault(job.folder, job)
            if other is not job:
                raise RunError(
                    f"hydra.sweep.subdir={job.folder}: must differ between jobs "
                    f"{other.number} and {job.number}"
                )

    def note_slurm(self, numbers: Mapping[str, str]) -> None:
        """Note the ids of the SLURM jobs that run the jobs in these folders (their names)."""
        self._change({folder: {"slurm_job": number} for folder, number in numbers.items()})

    def note_reason(self, folder: str, reason: str | None) -> None:
        """Note why the job in `folder` (its name) has failed; None: it has not."""
        self._change({folder: {"reason": reason}})

    def note(self, key: str, value: Any) -> None:
        """Note something about the sweep as a whole."""
        write_json(self.path / NOTE, self.read() | {key: value})

    def _change(self, changes: Mapping[str, dict[str, Any]]) -> None:
        jobs = self.jobs()
        if unknown := changes.keys() - {job.folder for job in jobs}:
            raise KeyError(f"{self.path} has no job in {unknown.pop()}")
        changed = [replace(job, **changes.get(job.folder, {})) for job in jobs]
        self._write(self.read(), changed)

    def _write(self, note: dict[str, Any], jobs: list[Job]) -> None:
        write_json(self.path / NOTE, note | {"jobs": [asdict(job) for job in jobs]})
