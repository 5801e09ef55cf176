"""Claims of workers on jobs: held by a lock, and open again should the worker die.

A worker claims at once what can be trained on one stream of activations, and no more of it than its
fair share. A job during which its worker has died may be what has killed it: it is run alone, and
given up when that has happened again without a newer checkpoint.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from temporal_sae.errors import RunError, one_line
from temporal_sae.files import remove_temporaries, write_json
from temporal_sae.locks import ProcessLock, is_held
from temporal_sae.report.sweep_facts import RECORD
from temporal_sae.sweep.plan import CONFIGS, NOTE, Job, SweepFolder
from temporal_sae.sweep.states import Outcome, State
from temporal_sae.sweep.status import newest_checkpoint, read_record, without_a_word

MOST_AT_ONCE = 200  # each has its files and its tensors
MOST_ATTEMPTS = 2
TURN = "claims.lock"


@dataclass(frozen=True)
class Claim:
    """A job that a worker can claim: as the sweep's note has it, and all of its options."""

    job: Job
    config: dict[str, Any]


class Claims:
    """The jobs of one worker.

    Args:
        folder: of the sweep.
        worker: its name, which no other worker has.
        n_workers: of the sweep, this one included.
        stream_of: returns from a job's config what it has in common with those it may be run with.
        check: refuses a config that a folder may not hold.
    """

    def __init__(
        self,
        folder: SweepFolder,
        worker: str,
        n_workers: int,
        stream_of: Callable[[dict[str, Any]], str],
        check: Callable[[dict[str, Any]], None],
    ) -> None:
        self.folder, self.worker, self.n_workers = folder, worker, n_workers
        self.stream_of, self.check = stream_of, check
        self._mine: dict[int, ProcessLock] = {}
        self._versions: list[tuple[int, int]] = []

    def take(self, most: int = MOST_AT_ONCE) -> list[Claim]:
        """Claim open jobs that share a stream; none if all are done or claimed by others.

        Raises:
            RunError: the folder is gone, or what it holds cannot be read.
        """
        with in_turn(self.folder):
            self._read()
            unclaimed, busy = self._look()
            fresh = [n for n, state in unclaimed.items() if not state.attempts]
            # Only the most doubtful jobs are left: one at a time, for each may end this process.
            chosen = self._share(fresh, most, busy) or self._suspect(unclaimed)
            for number in chosen:
                self._claim(number, unclaimed[number])
        return [self._jobs[number] for number in chosen]

    def _read(self) -> None:
        """Read the note and the configs, if they have changed: a command may have added jobs."""
        paths = self.folder.path / NOTE, self.folder.work / CONFIGS
        try:
            versions = [(os.stat(p).st_mtime_ns, os.stat(p).st_ino) for p in paths]
            if versions == self._versions:
                return
            configs = self.folder.configs()
        except FileNotFoundError:
            raise RunError(f"{self.folder.path}: holds no work for a sweep's workers") from None
        jobs = [job for job in self.folder.jobs() if job.number in configs]
        self._jobs = {job.number: Claim(job, configs[job.number]) for job in jobs}
        for claim in self._jobs.values():
            self.check(claim.config)
        self._streams = {n: self.stream_of(claim.config) for n, claim in self._jobs.items()}
        self._versions = versions

    def _look(self) -> tuple[dict[int, State], set[str]]:
        """Return the jobs that are open and nobody has, and the other workers that have some."""
        unclaimed, busy = {}, set()
        for number in self._jobs:
            # Looked at before the state: whoever lets go of a lock has noted the job's end.
            is_claimed = is_held(self.folder.states.lock(number))
            state = self.folder.states.read(number)
            if state.outcome is not None:
                continue
            if is_claimed and state.worker:
                busy.add(state.worker)
            elif not (state.attempts and self._has_ended(number)):
                unclaimed[number] = state
        return unclaimed, busy

    def _has_ended(self, number: int) -> bool:
        """Settle a job that came to its end before its worker did."""
        record, state = self._path(number) / RECORD, self.folder.states.path(number)
        try:
            if os.stat(record).st_mtime_ns <= os.stat(state).st_mtime_ns:
                return False  # that is what came of it earlier, and it is to be repeated
            said = read_record(record.parent)
        except (OSError, RunError):
            return False
        if said.get("status") == "failed":
            self.settle(number, Outcome(one_line(said.get("reason")) or "no reason is known"))
        elif said.get("status") == "finished":
            self.settle(number, Outcome())
        return said.get("status") in ("failed", "finished")

    def _share(self, fresh: Sequence[int], most: int, busy: set[str]) -> list[int]:
        """Return the jobs on the stream of the first that are this worker's fair share."""
        idle = max(1, self.n_workers - len(busy))
        count = min(most, math.ceil(len(fresh) / idle))
        same = [n for n in fresh if self._streams[n] == self._streams[fresh[0]]]
        return same[:count]

    def _suspect(self, unclaimed: dict[int, State]) -> list[int]:
        for number, state in unclaimed.items():
            folder = self._path(number)
            if newest_checkpoint(folder) > state.step:
                unclaimed[number] = state = replace(state, attempts=0)
            if state.attempts < MOST_ATTEMPTS:
                return [number]
            self.settle(number, Outcome(without_a_word(folder)))
        return []

    def _claim(self, number: int, state: State) -> None:
        lock = ProcessLock(self.folder.states.lock(number), timeout=0)
        lock.acquire()
        self._mine[number] = lock
        step = newest_checkpoint(self._path(number))
        self.folder.states.write(number, State(state.attempts + 1, step, self.worker))

    def _path(self, number: int) -> Path:
        return self.folder.path / self._jobs[number].job.folder

    def settle(self, number: int, outcome: Outcome) -> None:
        """Note how a job has ended, in its record too where it could not say so itself.

        Raises:
            RunError: the folder of the sweep is gone.
        """
        self.folder.check()
        settle(self.folder, self._jobs[number].job, outcome)
        self._release(number)

    def give_back(self, *, untried: bool) -> None:
        """Let other workers have what is claimed and not settled.

        Args:
            untried: the worker stops in good order, so the jobs are no reason to be careful.
        """
        for number in list(self._mine):
            if untried and self.folder.exists() and not self._has_ended(number):
                self.folder.states.forget(number)
            self._release(number)

    def _release(self, number: int) -> None:
        if number in self._mine:
            self._mine.pop(number).release()


@contextmanager
def in_turn(folder: SweepFolder) -> Iterator[None]:
    """Keep other workers from claiming while the context is open.

    Raises:
        RunError: the folder is gone.
    """
    folder.check()  # the lock would make it again
    lock = ProcessLock(folder.work / TURN)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def open_again(folder: SweepFolder, numbers: Iterable[int]) -> None:
    """Forget what came of jobs before this command, unless a worker has them."""
    with in_turn(folder):
        for number in numbers:
            if not is_held(folder.states.lock(number)):
                folder.states.forget(number)


def tidy(folder: SweepFolder) -> None:
    """Delete what killed processes have left beside the jobs' folders, unless workers are there."""
    with in_turn(folder):
        if not any(is_held(folder.states.lock(job.number)) for job in folder.jobs()):
            for path in (folder.path, folder.work):
                remove_temporaries(path, below=False)


def unclaimed(folder: SweepFolder, numbers: Iterable[int]) -> list[int]:
    """Return those of the jobs that are open and that no worker has."""
    states = folder.states
    with in_turn(folder):
        free = [n for n in numbers if not is_held(states.lock(n))]
        return [n for n in free if states.read(n).outcome is None]


def settle(folder: SweepFolder, job: Job, outcome: Outcome) -> None:
    """Note how a job has ended."""
    folder.states.write(job.number, replace(folder.states.read(job.number), outcome=outcome))
    path = folder.path / job.folder
    try:
        record = read_record(path)
    except RunError:
        return  # its own status is told by that
    if outcome.reason and record.get("status") == "running" and not is_held(path / ".lock"):
        write_json(path / RECORD, {**record, "status": "failed", "reason": outcome.reason})
