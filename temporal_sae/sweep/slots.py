"""The places where workers of a sweep can run: GPUs, or a number of them on the CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from temporal_sae.errors import InvalidOption, check_int
from temporal_sae.machine import cores, free_on_host, visible_gpus

WORKER = (sys.executable, "-P", "-m", "temporal_sae.sweep", "work")
MEMORY_OF_A_WORKER = 2 * 2**30  # bytes: a run on the CPU with the bundled model takes 1.4 GiB
MOST_PROCESSES = 1024  # of a job, or at a time: more is a slip of the finger
# numba's loops, MKL and OpenBLAS follow it; variables of their own change the last bits of a run.
THREADS = "OMP_NUM_THREADS"
# A worker is no part of whatever larger run the launcher itself may be started in.
RANK_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


@dataclass(frozen=True)
class Slot:
    """A place for one process."""

    number: int
    device: str | None = None  # the GPU, as CUDA_VISIBLE_DEVICES names it; None: the CPU


def find_slots(
    devices: str | Sequence[int], workers: int | None, n_jobs: int, processes_per_job: int
) -> list[Slot]:
    """Return the places that the options allow.

    Args:
        devices: auto (all visible GPUs, or else the CPU), cpu, or the numbers of GPUs among the
            visible ones.
        workers: jobs at a time on the CPU; None: as many as there are cores, memory and jobs for.
        n_jobs: jobs that wait.
        processes_per_job: places that each of them takes.

    Raises:
        InvalidOption: there are no such devices, or too few of them for one job.
    """
    processes_per_job = few_enough("processes_per_job", processes_per_job)
    workers = None if workers is None else few_enough("workers", workers)
    gpus = [] if devices == "cpu" else visible_gpus()
    if devices not in ("auto", "cpu"):
        gpus = chosen_gpus(devices, gpus)
    if not gpus:
        workers = workers or workers_that_fit(n_jobs, processes_per_job)
        return [Slot(n) for n in range(workers * processes_per_job)]
    if len(gpus) < processes_per_job:
        allowed = f"at most the number of devices, {len(gpus)}"
        raise InvalidOption("processes_per_job", processes_per_job, allowed)
    return [Slot(n, gpu) for n, gpu in enumerate(gpus)]


def few_enough(option: str, value: int) -> int:
    """Return a number of processes that a machine may start, else raise InvalidOption."""
    if (n := check_int(option, value, 1)) > MOST_PROCESSES:
        raise InvalidOption(option, n, f"at most {MOST_PROCESSES}; there are {cores()} cores")
    return n


def chosen_gpus(devices: str | Sequence[int], visible: Sequence[str]) -> list[str]:
    """Return those of the visible GPUs that are asked for by number."""
    numbers = [] if isinstance(devices, str) else list(devices)
    wanted = all(isinstance(n, int) and 0 <= n < len(visible) for n in numbers)
    if not numbers or not wanted or len(set(numbers)) < len(numbers):
        found = f"{len(visible)} are visible" if visible else "none is visible"
        allowed = f"auto, cpu, or a list of different CUDA devices ({found})"
        raise InvalidOption("devices", devices if isinstance(devices, str) else numbers, allowed)
    return [visible[n] for n in numbers]


def workers_that_fit(n_jobs: int, processes_per_job: int) -> int:
    """Jobs at a time on the CPU, at least one."""
    fit = [n_jobs, cores() // processes_per_job]
    if (free := free_on_host()) is not None:
        fit.append(free.n_bytes // (MEMORY_OF_A_WORKER * processes_per_job))
    return max(1, min(fit))


def thread_environment(n_slots: int, threads: int | None) -> dict[str, str]:
    """Variables that divide the cores among the slots.

    Args:
        n_slots: processes at a time.
        threads: of each; None: its share of the cores, or what OMP_NUM_THREADS says if that is
            less.

    Raises:
        InvalidOption: `threads` is no positive number.
    """
    if threads is None:
        threads = max(1, cores() // n_slots)
        asked = os.environ.get(THREADS, "")
        threads = min(threads, int(asked)) if asked.isdigit() and int(asked) else threads
    return {THREADS: str(check_int("threads", threads, 1))}


def worker_environment(slots: Sequence[Slot], rank: int, port: int | None) -> dict[str, str]:
    """Return the variables of one process of a worker, without those of a larger run.

    Args:
        slots: those of the whole worker; its processes see all its GPUs, and each takes one.
        rank: the number of this process.
        port: where the processes meet; None: there is only one.
    """
    values = {name: text for name, text in os.environ.items() if name not in RANK_VARIABLES}
    values["CUDA_VISIBLE_DEVICES"] = ",".join(slot.device for slot in slots if slot.device)
    # Modules are found from wherever this process finds them, and not from the working directory.
    values["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    values["PYTHONFAULTHANDLER"] = "1"  # a crash in native code leaves its place in the log
    if port is not None:
        values |= dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
        values |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(len(slots)))
        values |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return values


def worker_words(folder: Path, n_workers: int, plugins: Sequence[str]) -> list[str]:
    """Return the command of every worker of a sweep."""
    words = [*WORKER, str(folder.absolute()), "--workers", str(n_workers)]
    return words + (["--plugins", ",".join(plugins)] if plugins else [])


def place_of(slots: Sequence[Slot]) -> str:
    """Return the slots of a worker in words."""
    devices = [slot.device for slot in slots if slot.device is not None]
    if devices:
        return f"GPU {', '.join(devices)}"
    return f"CPU worker {', '.join(str(slot.number) for slot in slots)}"
