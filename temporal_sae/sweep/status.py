"""The progress of a sweep's jobs, read from their folders.

Nothing is asked of the processes that run them, so it is the same for every launcher, while a sweep
runs and long after.
"""

from __future__ import annotations

import math
import os
import subprocess
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from temporal_sae import locks, schemas
from temporal_sae.errors import RunError, one_line
from temporal_sae.files import open_regular
from temporal_sae.sweep.plan import Job, SweepFolder

RECORD = "run.json"
METRICS = "metrics.jsonl"
LONGEST_LINE = 16 * 1024  # bytes of metrics.jsonl that are sure to hold a whole line
SECONDS_TO_ASK_SLURM = 10
SECONDS_BETWEEN_ASKING = 5
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}


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


def read_sweep(folder: str | Path) -> list[JobStatus]:
    """Return the state of every job of a sweep, by number.

    Raises:
        RunError: sweep.json cannot be read.
    """
    path = Path(folder)
    jobs = SweepFolder(path).jobs()
    asked = any(job.slurm_job for job in jobs)
    # In steps of some seconds: a table that refreshes twice a second must not flood the controller.
    now = slurm_queue(int(time.monotonic() / SECONDS_BETWEEN_ASKING)) if asked else {}
    return [read_job(path / job.folder, job, now.get(job.slurm_job or "")) for job in jobs]


def read_job(folder: Path, job: Job, slurm_state: str | None = None) -> JobStatus:
    """Return the state of one job.

    Args:
        folder: of the job.
        job: what the sweep has noted of it.
        slurm_state: what SLURM's queue says of it, if it is there.
    """
    try:
        record = read_record(folder)
    except RunError as error:
        # It can neither be continued nor begun anew while that lies there.
        return JobStatus(job.number, folder, job.overrides, "failed", one_line(error))
    metrics = last_metrics(folder / METRICS) if record else None
    step = metrics["step"] if metrics else 0
    state, reason = _state(folder, record, job, slurm_state, step)
    total = total_steps(record)
    speed = finite(metrics.get("tokens_per_second")) if metrics else None
    return JobStatus(
        number=job.number,
        folder=folder,
        overrides=job.overrides,
        state=state,
        reason=reason,
        step=step,
        total_steps=total,
        tokens_per_second=speed,
        loss=metrics.get("loss") if metrics else None,
        eta_seconds=_time_left(record, step, total, speed) if state == "running" else None,
    )


def _state(
    folder: Path,
    record: dict[str, Any],
    job: Job,
    slurm_state: str | None,
    step: int,
) -> tuple[str, str | None]:
    """State and reason."""
    status, reason = record.get("status"), one_line(record.get("reason"))
    if status == "finished":
        return "finished", None
    if slurm_state in WAITING:
        return "queued", None
    if slurm_state is not None or (status == "running" and is_held(folder)):
        return "running", None
    if status == "stopped":
        return "stopped", reason
    if status == "running":
        reason = f"ended without a word at step {step} (killed, or out of memory?)"
    elif status is None and job.reason is None:
        return "missing", None
    return "failed", one_line(job.reason) or reason or "no reason is known"


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


def _time_left(
    record: dict[str, Any], step: int, total: int | None, speed: float | None
) -> float | None:
    if total is None or not speed:
        return None
    return finite(max(0, total - step) * float(record["config"]["trainer"]["batch_size"]) / speed)


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


@lru_cache(maxsize=1)
def slurm_queue(moment: int) -> dict[str, str]:
    """State by id of the user's jobs in SLURM's queue; empty where it cannot be asked.

    Args:
        moment: answers are kept for one moment.
    """
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_TO_ASK_SLURM, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)
