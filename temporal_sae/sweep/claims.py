"""Claims of workers on jobs: held by a lock, and open again should the worker die.

A worker claims at once what can be trained on one stream of activations, and no more of it than its
fair share. A job during which its worker has died may be what has killed it: it is run alone, and
given up when that has happened again without a newer checkpoint.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from temporal_sae.errors import RunError, one_line
from temporal_sae.files import remove_temporaries, write_json
from temporal_sae.locks import ProcessLock, is_held
from temporal_sae.sweep.plan import CONFIGS, NOTE, Job, SweepFolder
from temporal_sae.sweep.states import Outcome, State, States
from temporal_sae.sweep.status import RECORD, newest_checkpoint, read_record, without_a_word

MOST_AT_ONCE = 200  # each has its files and its tensors
MOST_ATTEMPTS = 2
TURN = "claims.lock"


@dataclass(frozen=True)
class Claim:
    """A job that a worker has claimed.

    Args:
        job: as the sweep's note has it.
        config: all of its options.
    """

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
        self.states = States(folder.work)
        self._mine: dict[int, ProcessLock] = {}
        self._versions: list[tuple[int, int]] = []

    def take(self, most: int = MOST_AT_ONCE) -> list[Claim]:
        """Claim open jobs that share a stream; none if all are done or claimed by others.

        Args:
            most: how many at once.

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
        return [Claim(self._jobs[n], self._configs[n]) for n in chosen]

    def _read(self) -> None:
        """Read the note and the configs, if they have changed: a command may have added jobs."""
        paths = self.folder.path / NOTE, self.folder.work / CONFIGS
        try:
            versions = [(os.stat(p).st_mtime_ns, os.stat(p).st_ino) for p in paths]
            if versions == self._versions:
                return
            self._configs = self.folder.configs()
        except FileNotFoundError:
            raise RunError(f"{self.folder.path}: holds no work for a sweep's workers") from None
        self._jobs = {job.number: job for job in self.folder.jobs() if job.number in self._configs}
        for number in self._jobs:
            self.check(self._configs[number])
        self._streams = {n: self.stream_of(self._configs[n]) for n in self._jobs}
        self._versions = versions

    def _look(self) -> tuple[dict[int, State], set[str]]:
        """Return the jobs that are open and nobody has, and the other workers that have some."""
        unclaimed, busy = {}, set()
        for number in self._jobs:
            state = self.states.read(number)
            if state.outcome is not None:
                continue
            if state.worker and is_held(self.states.lock(number)):
                busy.add(state.worker)
            elif not (state.attempts and self._has_ended(number)):
                unclaimed[number] = state
        return unclaimed, busy

    def _has_ended(self, number: int) -> bool:
        """Settle a job that came to its end before its worker did."""
        folder = self.folder.path / self._jobs[number].folder
        try:
            record = read_record(folder)
        except RunError:
            return False
        if not self.states.is_older(number, folder / RECORD):
            return False  # that is what came of it earlier, and it is to be repeated
        if record.get("status") == "failed":
            self.settle(number, Outcome(one_line(record.get("reason")) or "no reason is known"))
        elif record.get("status") == "finished":
            self.settle(number, Outcome())
        return record.get("status") in ("failed", "finished")

    def _share(self, fresh: Sequence[int], most: int, busy: set[str]) -> list[int]:
        """Return the jobs on the stream of the first that are this worker's fair share."""
        idle = max(1, self.n_workers - len(busy))
        count = min(most, math.ceil(len(fresh) / idle))
        same = [n for n in fresh if self._streams[n] == self._streams[fresh[0]]]
        return same[:count]

    def _suspect(self, unclaimed: dict[int, State]) -> list[int]:
        for number, state in list(unclaimed.items()):
            folder = self.folder.path / self._jobs[number].folder
            if newest_checkpoint(folder) > state.step:
                unclaimed[number] = state = replace(state, attempts=0)
            if state.attempts < MOST_ATTEMPTS:
                return [number]
            self.settle(number, Outcome(without_a_word(folder)))
        return []

    def _claim(self, number: int, state: State) -> None:
        lock = ProcessLock(self.states.lock(number), timeout=0)
        lock.acquire()
        self._mine[number] = lock
        step = newest_checkpoint(self.folder.path / self._jobs[number].folder)
        self.states.write(number, State(state.attempts + 1, step, self.worker))

    def settle(self, number: int, outcome: Outcome) -> None:
        """Note how a job has ended, in its record too where it could not say so itself.

        Raises:
            RunError: the folder of the sweep is gone.
        """
        self.folder.check()
        settle(self.folder, self._jobs[number].folder, number, outcome)
        self._release(number)

    def give_back(self, *, untried: bool) -> None:
        """Let other workers have what is claimed and not settled.

        Args:
            untried: the worker stops in good order, so the jobs are no reason to be careful.
        """
        for number in list(self._mine):
            if untried and self.folder.exists() and not self._has_ended(number):
                self.states.forget(number)
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


def open_again(folder: SweepFolder, numbers: Sequence[int]) -> None:
    """Forget what came of jobs before this command, unless a worker has them."""
    states = States(folder.work)
    with in_turn(folder):
        for number in numbers:
            if not is_held(states.lock(number)):
                states.forget(number)


def tidy(folder: SweepFolder) -> None:
    """Delete what killed processes have left beside the jobs' folders, unless workers are there."""
    states = States(folder.work)
    with in_turn(folder):
        if not any(is_held(states.lock(job.number)) for job in folder.jobs()):
            for path in (folder.path, folder.work):
                remove_temporaries(path, below=False)


def unclaimed(folder: SweepFolder, numbers: Sequence[int]) -> list[int]:
    """Return those of the jobs that are open and that no worker has."""
    states = States(folder.work)
    with in_turn(folder):
        still_open = [n for n in numbers if states.read(n).outcome is None]
        return [n for n in still_open if not is_held(states.lock(n))]


def settle(folder: SweepFolder, name: str, number: int, outcome: Outcome) -> None:
    """Note how the job in the folder `name` has ended."""
    states = States(folder.work)
    states.write(number, replace(states.read(number), outcome=outcome))
    path = folder.path / name
    try:
        record = read_record(path)
    except RunError:
        return  # its own status is told by that
    if outcome.reason and record.get("status") == "running" and not is_held(path / ".lock"):
        write_json(path / RECORD, {**record, "status": "failed", "reason": outcome.reason})
