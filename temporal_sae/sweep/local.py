"""`hydra/launcher=local`: workers side by side on the GPUs or cores of this machine."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from omegaconf import ListConfig
from rich.console import Console

from temporal_sae.errors import InvalidOption, RunError, check_int, printable
from temporal_sae.files import open_to_append, read_end
from temporal_sae.report.sweep_progress import LiveTable, say
from temporal_sae.sweep.claims import unclaimed
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.slots import (
    Slot,
    find_slots,
    place_of,
    thread_environment,
    worker_environment,
    worker_words,
)
from temporal_sae.sweep.states import State, worker_name
from temporal_sae.sweep.status import read_sweep

GROUP = "hydra.launcher"
SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_ALONE = 10.0  # for the other processes of a worker of which one has ended
MOST_IN_VAIN = 2  # workers in one place that end before they have claimed anything
TAIL_BYTES = 4096
Place = tuple[Slot, ...]


class LocalLauncher:
    """Starts a worker in every place, and another where one dies while there is work for it.

    What the options mean is said in `conf/hydra/launcher/local.yaml`.
    """

    def __init__(
        self,
        devices: str | Sequence[int] = "auto",
        workers: int | None = None,
        processes_per_job: int = 1,
        threads: int | None = None,
    ) -> None:
        self.devices = list(devices) if isinstance(devices, (ListConfig, tuple)) else devices
        self.workers, self.processes_per_job, self.threads = workers, processes_per_job, threads

    def work(self, folder: SweepFolder, numbers: Sequence[int], plugins: Sequence[str]) -> str:
        """See `session.Launcher`."""
        places, environment = self._places(len(numbers))
        words = [*worker_words(folder.path, len(places), plugins), "--lifeline"]
        pool, console = Pool(folder, numbers, words, environment), Console()
        try:
            with LiveTable(lambda: read_sweep(folder.path), console) as table:
                for place in places:
                    pool.start(place)
                try:
                    pool.wait(table.update)
                except KeyboardInterrupt:
                    claimed = [state for state in pool.states() if state.worker]
                    n_claimed = sum(state.outcome is None for state in claimed)
                    say(f"stopping {n_claimed} jobs; Ctrl-C again ends them at once", console)
                    pool.stop()
                    pool.wait(table.update)
                    raise
        finally:
            pool.kill()
        if not any(state.worker for state in pool.states()):
            raise RunError(f"hydra/launcher=local: no worker can start ({pool.last_words})")
        return f"no worker is left for it ({pool.last_words})"

    def _places(self, n_jobs: int) -> tuple[list[Place], dict[str, str]]:
        """Return the slots of every worker, and the threads of each of its processes."""
        try:
            n = check_int("processes_per_job", self.processes_per_job, 1)
            slots = find_slots(self.devices, self.workers, n_jobs, n)
            threads = thread_environment(len(slots), self.threads)
        except InvalidOption as error:
            raise error.within(GROUP) from None
        places = [tuple(slots[first : first + n]) for first in range(0, len(slots) - n + 1, n)]
        return places[:n_jobs], threads


class Pool:
    """The workers of one command: `words`, with these variables, for the jobs of these numbers."""

    def __init__(
        self,
        folder: SweepFolder,
        numbers: Sequence[int],
        words: Sequence[str],
        environment: dict[str, str],
    ) -> None:
        self.folder, self.numbers, self.words = folder, numbers, words
        self.environment = environment
        self.last_words, self.is_stopping = "", False
        self._running: dict[Place, Running] = {}
        self._in_vain: Counter[Place] = Counter()

    def states(self) -> list[State]:
        """Return the states of the jobs."""
        return [self.folder.states.read(number) for number in self.numbers]

    def start(self, place: Place) -> None:
        """Start a worker."""
        port = free_port() if len(place) > 1 else None
        running = self._running[place] = Running()
        for rank, slot in enumerate(place):
            output = open_to_append(self._log(slot))
            process = subprocess.Popen(
                [*self.words, "--place", place_of(place)],
                env=worker_environment(place, rank, port) | self.environment,
                stdin=subprocess.PIPE,  # ends with this process, however that ends
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is the launcher's
            )
            os.close(output)
            running.add(process)

    def wait(self, look: Callable[[], None]) -> None:
        """Wait until no worker is left, and look a few times a second.

        One that dies is replaced, unless they are to stop.
        """
        while self._running:
            for place, running in list(self._running.items()):
                if running.has_ended():
                    del self._running[place]
                    if self._is_to_replace(place, running) and not self.is_stopping:
                        self.start(place)
            look()
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def stop(self) -> None:
        """Ask all workers to stop."""
        self.is_stopping = True
        for running in self._running.values():
            running.signal(signal.SIGINT)

    def kill(self) -> None:
        """End the workers that are left where they are."""
        for running in self._running.values():
            while not running.has_ended():
                running.signal(signal.SIGKILL)

    def _is_to_replace(self, place: Place, ended: Running) -> bool:
        """Return whether there is work for another worker in the place of one."""
        if ended.code:
            self.last_words = f"{ended_by(ended.code)}{last_words(self._log(place[0]))}"
        if not any(state.worker == ended.name for state in self.states()):
            self._in_vain[place] += 1
        again = self._in_vain[place] < MOST_IN_VAIN
        return again and self.folder.exists() and bool(unclaimed(self.folder, self.numbers))

    def _log(self, slot: Slot) -> Path:
        return self.folder.work / f"worker_{slot.number}.log"


class Running:
    """The processes of a worker that have not ended.

    Attributes:
        name: by which jobs know the worker.
        code: the exit code of the first process that has failed.
    """

    def __init__(self) -> None:
        self.name, self.code, self._alone_since = "", 0, math.inf
        self._processes: list[subprocess.Popen[bytes]] = []

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Add a process; the first one claims jobs."""
        self.name = self.name or worker_name(process.pid)
        self._processes.append(process)

    def has_ended(self) -> bool:
        """Return whether no process is left; those that wait in vain for one are killed."""
        for process in list(self._processes):
            # It is not reaped yet, so its number is still that of what it may have started.
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            kill_group(process.pid)
            code = process.wait()
            self.code = self.code or code
            self._alone_since = min(self._alone_since, time.monotonic())
            if process.stdin:
                process.stdin.close()
            self._processes.remove(process)
        if time.monotonic() - self._alone_since > SECONDS_ALONE:
            self.signal(signal.SIGKILL)
        return not self._processes

    def signal(self, number: int) -> None:
        """Send a signal, SIGKILL to all that the worker has started, too."""
        for process in self._processes:
            if number == signal.SIGKILL:
                kill_group(process.pid)
            else:
                process.send_signal(number)


def kill_group(pid: int) -> None:
    """Kill a process and all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def ended_by(code: int) -> str:
    """`killed by SIGKILL`, or `ended with exit code 1`."""
    names = {number.value: number.name for number in signal.Signals}
    return f"killed by {names.get(-code, -code)}" if code < 0 else f"ended with exit code {code}"


def last_words(path: Path) -> str:
    """Return the last line of a worker's log, for a message."""
    lines = read_end(path, TAIL_BYTES).decode(errors="replace").split("\n")
    found = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {printable(found.removeprefix('error: '))}" if found else ""


def free_port() -> int:
    """Return a port of this machine that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
