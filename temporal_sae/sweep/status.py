"""The progress of a sweep's jobs, read from their folders.

Nothing is asked of the processes that run them, so it is the same for every launcher, while a sweep
runs and long after.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from temporal_sae import locks, schemas
from temporal_sae.errors import RunError, one_line
from temporal_sae.files import open_regular
from temporal_sae.sweep.plan import Job, SweepFolder, jobs_of
from temporal_sae.sweep.states import State, States

RECORD = "run.json"
METRICS = "metrics.jsonl"
LONGEST_LINE = 16 * 1024  # bytes of metrics.jsonl that are sure to hold a whole line
SECONDS_TO_ASK_SLURM = 10
SECONDS_BETWEEN_ASKING = 5
CHECKPOINT = re.compile(r"step_(\d{9})\.")


@dataclass(frozen=True)
class JobStatus:
    """The progress of a job of a sweep.

    Args:
        number: its place in the sweep.
        folder: its folder.
        overrides: what it changes.
        state: finished | running | queued | stopped | failed | missing.
        reason: why it has failed, in one line.
        step: the last step whose metrics are written.
        total_steps: of the whole run.
        tokens_per_second: as last written.
        loss: as last written.
        eta_seconds: time left for training.
    """

    number: int
    folder: Path
    overrides: tuple[str, ...]
    state: str
    reason: str | None = None
    step: int = 0
    total_steps: int | None = None
    tokens_per_second: float | None = None
    loss: float | None = None
    eta_seconds: float | None = None


def read_sweep(folder: str | Path, *, goes_on: bool | None = None) -> list[JobStatus]:
    """Return the state of every job of a sweep, by number.

    Args:
        folder: of the sweep.
        goes_on: whether its command is at work and will begin what is open; None: look.

    Raises:
        RunError: sweep.json cannot be read.
    """
    sweep = SweepFolder(folder)
    note = sweep.read()
    states, array = States(sweep.work), note.get("slurm_job")
    in_queue = array is not None and array in slurm_arrays()
    goes_on = is_held(sweep.path) if goes_on is None else goes_on
    found = []
    for job in jobs_of(note):
        known = states.read(job.number)
        status = read_job(sweep.path / job.folder, job, known, in_queue=in_queue)
        if goes_on and known.outcome is None and status.state in ("missing", "failed"):
            status = replace(status, state="queued")  # again, where its worker has died
        found.append(status)
    return found


def read_job(
    folder: Path, job: Job, known: State | None = None, *, in_queue: bool = False
) -> JobStatus:
    """Return the state of one job.

    Args:
        folder: of the job.
        job: what the sweep has noted of it.
        known: what workers have noted of it.
        in_queue: whether a cluster has workers for it.
    """
    known = known or State()
    try:
        record = _record(folder / RECORD)
    except RunError as error:
        # It can neither be continued nor begun anew while that lies there.
        return JobStatus(job.number, folder, job.overrides, "failed", one_line(error))
    metrics = last_metrics(folder / METRICS) if record.status else None
    step = metrics["step"] if metrics else 0
    state, reason = _state(folder, record, job, known, in_queue)
    speed = finite(metrics.get("tokens_per_second")) if metrics else None
    left = max(0, (record.total_steps or 0) - step) * (record.batch_size or 0)
    shows_time = state == "running" and record.total_steps and speed
    return JobStatus(
        number=job.number,
        folder=folder,
        overrides=job.overrides,
        state=state,
        reason=reason,
        step=step,
        total_steps=record.total_steps,
        tokens_per_second=speed,
        loss=metrics.get("loss") if metrics else None,
        eta_seconds=finite(left / speed) if shows_time and speed else None,
    )


def _state(
    folder: Path, record: _Record, job: Job, known: State, in_queue: bool
) -> tuple[str, str | None]:
    """State and reason."""
    if record.status == "finished":
        return "finished", None
    if record.status == "running" and is_held(folder):
        return "running", None
    if in_queue and known.outcome is None:
        return ("running" if known.worker else "queued"), None
    noted = known.outcome.reason if known.outcome else one_line(job.reason)
    if record.status == "stopped" and not (known.outcome and noted):
        return "stopped", record.reason
    if record.status is None and noted is None:
        return "missing", None
    reason = record.reason
    if record.status == "running":
        reason = without_a_word(folder)
    return "failed", noted or reason or "no reason is known"


class _Record(NamedTuple):
    """The part of `run.json` that is shown."""

    status: str | None = None
    reason: str | None = None
    total_steps: int | None = None
    batch_size: float | None = None


def _record(path: Path) -> _Record:
    """Return what a record says; one that has not changed since the last look is not read again."""
    try:
        stat = os.stat(path)
    except OSError:
        return _Record()
    return _read_record(path, stat.st_ino, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read_record(path: Path, inode: int, moment: int) -> _Record:
    record = read_record(path.parent)
    total = total_steps(record)
    batch_size = float(record["config"]["trainer"]["batch_size"]) if total else None
    return _Record(record.get("status"), one_line(record.get("reason")), total, batch_size)


def is_held(folder: Path) -> bool:
    """Return whether a process runs in a job's folder."""
    return locks.is_held(folder / ".lock")


def total_steps(record: dict[str, Any]) -> int | None:
    """Length of a run in steps, from its record."""
    try:
        trainer = record["config"]["trainer"]
        return max(1, int(float(trainer["num_tokens"]) // float(trainer["batch_size"])))
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None


def finite(value: float | None) -> float | None:
    """Return a number; None instead of NaN and infinities."""
    return value if value is not None and math.isfinite(value) else None


def last_metrics(path: Path) -> schemas.MetricsLine | None:
    """Return the last whole line of metrics.jsonl, None if there is none."""
    try:
        with open_regular(path) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LONGEST_LINE))
            tail = file.read()
    except OSError:
        return None
    lines = reversed(tail.split(b"\n"))  # it may begin and end in the middle of one
    return next((metrics for line in lines if (metrics := schemas.metrics_of(line))), None)


def read_record(folder: Path) -> dict[str, Any]:
    """`run.json` of a job, empty where there is none.

    Raises:
        RunError: it is damaged.
    """
    try:
        return {**schemas.read(folder / RECORD, schemas.RunRecord)}
    except FileNotFoundError:
        return {}


def has_finished(folder: Path) -> bool:
    """Return whether the run in a folder is done; one whose record is damaged is not."""
    try:
        return read_record(folder).get("status") == "finished"
    except RunError:
        return False


def without_a_word(folder: Path) -> str:
    """Return the reason of a job whose process has ended and could not say why."""
    metrics = last_metrics(folder / METRICS)
    step = metrics["step"] if metrics else 0
    return f"ended without a word at step {step} (killed, or out of memory?)"


def newest_checkpoint(folder: Path) -> int:
    """Return the step of the newest checkpoint of a job, 0 without one; it is not opened."""
    found = (CHECKPOINT.match(path.name) for path in (folder / "checkpoints").glob("step_*"))
    return max((int(match[1]) for match in found if match), default=0)


def slurm_arrays() -> set[str]:
    """Return the ids of the user's jobs that SLURM has not ended; empty where it does not say."""
    # In steps of some seconds: a table that refreshes twice a second must not flood the controller.
    return _slurm_arrays(int(time.monotonic() / SECONDS_BETWEEN_ASKING))


@lru_cache(maxsize=1)
def _slurm_arrays(moment: int) -> set[str]:
    command = ["squeue", "--me", "--noheader", "--format=%A %F"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_TO_ASK_SLURM, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return set()
    return set(done.stdout.split())
