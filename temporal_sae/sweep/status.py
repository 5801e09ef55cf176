"""What the folders of a sweep's jobs say about how far they are.

Nothing is asked of the processes that run them, so it is the same for every launcher, while a sweep
runs and long after.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from temporal_sae import locks
from temporal_sae.errors import one_line
from temporal_sae.sweep.plan import Job, SweepFolder

RECORD = "run.json"
METRICS = "metrics.jsonl"
LONGEST_LINE = 16 * 1024  # bytes of metrics.jsonl that are sure to hold a whole line
SECONDS_TO_ASK_SLURM = 10
SECONDS_BETWEEN_ASKING = 5
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}


@dataclass(frozen=True)
class JobStatus:
    """How far a job of a sweep is.

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
    """The state of every job of a sweep, by number.

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
    """The state of one job.

    Args:
        folder: of the job.
        job: what the sweep has noted of it.
        slurm_state: what SLURM's queue says of it, if it is there.
    """
    record = read_json(folder / RECORD)
    metrics = last_metrics(folder / METRICS) if record else {}
    state, reason = _state(folder, record, job, slurm_state, metrics)
    total = total_steps(record)
    speed = metrics.get("tokens_per_second")
    step = int(metrics.get("step", 0))
    return JobStatus(
        number=job.number,
        folder=folder,
        overrides=job.overrides,
        state=state,
        reason=reason,
        step=step,
        total_steps=total,
        tokens_per_second=speed,
        loss=metrics.get("loss"),
        eta_seconds=_time_left(record, step, total, speed) if state == "running" else None,
    )


def _state(
    folder: Path,
    record: dict[str, Any],
    job: Job,
    slurm_state: str | None,
    metrics: dict[str, Any],
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
        step = int(metrics.get("step", 0))
        reason = f"ended without a word at step {step} (killed, or out of memory?)"
    elif status is None and job.reason is None:
        return "missing", None
    return "failed", job.reason or reason or "no reason is known"


def is_held(folder: Path) -> bool:
    """Whether a process runs in a job's folder."""
    return locks.is_held(folder / ".lock")


def total_steps(record: dict[str, Any]) -> int | None:
    """Length of a run in steps, from its record."""
    trainer = (record.get("config") or {}).get("trainer") or {}
    try:
        return max(1, int(float(trainer["num_tokens"]) // float(trainer["batch_size"])))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _time_left(
    record: dict[str, Any], step: int, total: int | None, speed: float | None
) -> float | None:
    if total is None or not speed:
        return None
    return max(0, total - step) * float(record["config"]["trainer"]["batch_size"]) / speed


def last_metrics(path: Path) -> dict[str, Any]:
    """The last whole line of metrics.jsonl, empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LONGEST_LINE))
            tail = file.read()
    except OSError:
        return {}
    for line in reversed(tail.split(b"\n")):
        try:
            metrics = json.loads(line)
        except ValueError:
            continue  # the end of a line that is being written, or the middle of one
        if isinstance(metrics, dict) and "step" in metrics:
            return metrics
    return {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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
