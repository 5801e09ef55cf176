"""`hydra/launcher=local`: workers side by side on the GPUs or cores of this machine."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from omegaconf import ListConfig

from temporal_sae import signals
from temporal_sae.errors import InvalidOption, RunError, check_int, printable
from temporal_sae.files import open_regular, open_to_append
from temporal_sae.sweep.claims import unclaimed
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.slots import (
    Slot,
    find_slots,
    place_of,
    thread_environment,
    worker_environment,
)
from temporal_sae.sweep.states import States
from temporal_sae.sweep.status import read_sweep
from temporal_sae.sweep.table import LiveTable, print_line

GROUP = "hydra.launcher"
WORKER = (sys.executable, "-P", "-m", "temporal_sae.sweep", "work")
SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_ALONE = 10.0  # for the other processes of a worker of which one has failed
MOST_IN_VAIN = 2  # workers that end before they have claimed anything
TAIL_BYTES = 4096


class LocalLauncher:
    """Starts a worker in every slot, and another where one dies while there is work for it.

    What the options mean is said in `conf/hydra/launcher/local.yaml`.

    Args:
        devices: auto, cpu, or numbers of GPUs.
        workers: how many on the CPU; None: as many as fit.
        processes_per_job: above 1: data parallel.
        threads: of each process; None: its share of the cores.
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
        from rich.console import Console  # slow to import

        places, threads = self._places(len(numbers))
        console = Console()
        options = ["--plugins", ",".join(plugins)] if plugins else []
        pool = Pool(folder, numbers, places, options, threads)
        with LiveTable(lambda: read_sweep(folder.path), console) as table, StopRequests() as stop:
            try:
                pool.run(stop, table.update, partial(print_line, console))
            finally:
                pool.kill()
        if stop.signal is not None:
            raise signals.Terminated(stop.signal)
        if pool.has_done_nothing():
            raise RunError(f"hydra/launcher=local: no worker can start ({pool.words})")
        return f"no worker is left for it ({pool.words})"

    def _places(self, n_jobs: int) -> tuple[list[tuple[Slot, ...]], dict[str, str]]:
        """Return the slots of every worker, and the threads of each of its processes."""
        try:
            n = check_int("processes_per_job", self.processes_per_job, 1)
            slots = find_slots(self.devices, self.workers, n_jobs, n)
            threads = thread_environment(len(slots), self.threads)
        except InvalidOption as error:
            raise error.within(GROUP) from None
        workers = [tuple(slots[first : first + n]) for first in range(0, len(slots) - n + 1, n)]
        return workers[:n_jobs], threads


class StopRequests:
    """While open, counts stop signals instead of letting them interrupt anything."""

    def __init__(self) -> None:
        self.count = 0
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        with suppress(ValueError):  # not the main thread: signals are somebody else's
            for number in signals.STOP:
                if number != signal.SIGHUP or not signals.is_ignored(number):
                    self._previous[number] = signal.signal(number, self._on_signal)
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


@dataclass
class Running:
    """A worker that has been started.

    Args:
        slots: one for each of its processes.
        processes: those that have not ended.
        name: by which jobs know it.
        code: the exit code of the first process that has failed.
        failed_at: when it did.
    """

    slots: tuple[Slot, ...]
    processes: list[subprocess.Popen[bytes]]
    name: str
    code: int = 0
    failed_at: float = math.inf

    def has_ended(self) -> bool:
        """Return whether no process of it is left; those of one that has died are killed."""
        for process in list(self.processes):
            # It is not reaped yet, so its number is still that of what it may have started.
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            kill_group(process.pid)
            code = process.wait()
            self.code = self.code or code
            if process.stdin:
                process.stdin.close()
            self.processes.remove(process)
        if self.code:
            self.failed_at = min(self.failed_at, time.monotonic())
        if time.monotonic() - self.failed_at > SECONDS_ALONE:
            self.signal(signal.SIGKILL)
        return not self.processes

    def signal(self, number: int) -> None:
        """Send a signal to its processes, SIGKILL to all that they have started, too."""
        for process in self.processes:
            if number == signal.SIGKILL:
                kill_group(process.pid)
            else:
                process.send_signal(number)


class Pool:
    """The workers of one command.

    Args:
        folder: of the sweep.
        numbers: of the jobs that are to do.
        places: the slots of each worker.
        options: of every worker's command line.
        threads: variables for that.
    """

    def __init__(
        self,
        folder: SweepFolder,
        numbers: Sequence[int],
        places: Sequence[tuple[Slot, ...]],
        options: Sequence[str],
        threads: dict[str, str],
    ) -> None:
        self.folder, self.numbers, self.places = folder, numbers, places
        self.options, self.threads = options, threads
        self.states = States(folder.work)
        self.running: list[Running] = []
        self.in_vain: dict[tuple[Slot, ...], int] = {}
        self.words = ""

    def run(self, stop: StopRequests, look: Callable[[], None], say: Callable[[str], None]) -> None:
        """Keep workers at work until no job is left for them, or they are asked to stop.

        Args:
            stop: tells of signals.
            look: called a few times a second.
            say: prints a line.
        """
        answered = 0
        for slots in self.places:
            self._start(slots)
        while self.running:
            for worker in [worker for worker in self.running if worker.has_ended()]:
                self.running.remove(worker)
                if not stop.count and self._is_to_replace(worker):
                    self._start(worker.slots)
            if stop.count > answered:
                answered = stop.count
                if answered == 1:
                    say(f"stopping {self._n_claimed()} jobs; Ctrl-C again ends them at once")
                for worker in self.running:
                    worker.signal(signal.SIGINT if answered == 1 else signal.SIGKILL)
            look()
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def kill(self) -> None:
        """End what is left."""
        while self.running:
            for worker in self.running:
                worker.signal(signal.SIGKILL)
            self.running = [worker for worker in self.running if not worker.has_ended()]

    def _start(self, slots: tuple[Slot, ...]) -> None:
        port = free_port() if len(slots) > 1 else None
        command = [
            *WORKER,
            *(str(self.folder.path.absolute()), "--lifeline", "--place", place_of(slots)),
            *("--workers", str(len(self.places)), *self.options),
        ]
        processes = []
        for rank, slot in enumerate(slots):
            output = open_to_append(self._log(slot))
            processes.append(
                subprocess.Popen(
                    command,
                    env=worker_environment(slots, rank, port) | self.threads,
                    stdin=subprocess.PIPE,  # ends with this process, however that ends
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is the launcher's
                )
            )
            os.close(output)
        name = f"{socket.gethostname()}:{processes[0].pid}"
        self.running.append(Running(slots, processes, name))

    def _is_to_replace(self, worker: Running) -> bool:
        """Return whether there is work for another worker in its place."""
        if worker.code:
            self.words = f"{ended_by(worker.code)}{last_words(self._log(worker.slots[0]))}"
        if not any(self.states.read(n).worker == worker.name for n in self.numbers):
            self.in_vain[worker.slots] = self.in_vain.get(worker.slots, 0) + 1
        again = self.in_vain.get(worker.slots, 0) < MOST_IN_VAIN
        return again and self.folder.exists() and bool(unclaimed(self.folder, self.numbers))

    def has_done_nothing(self) -> bool:
        """Return whether no worker could so much as claim a job."""
        return not any(self.states.read(n).worker for n in self.numbers)

    def _n_claimed(self) -> int:
        states = map(self.states.read, self.numbers)
        return sum(state.worker is not None and state.outcome is None for state in states)

    def _log(self, slot: Slot) -> Path:
        return self.folder.work / f"worker_{slot.number}.log"


def kill_group(pid: int) -> None:
    """Kill a process and all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def ended_by(code: int) -> str:
    """`killed by SIGKILL`, or `ended with exit code 1`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def last_words(path: Path) -> str:
    """Return the last line of a worker's log, for a message."""
    lines = end_of(path).decode(errors="replace").split("\n")
    found = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {printable(found.removeprefix('error: '))}" if found else ""


def end_of(path: Path) -> bytes:
    """Return the last part of a log, empty where there is none."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read()
    except OSError:
        return b""


def free_port() -> int:
    """Return a port of this machine that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
