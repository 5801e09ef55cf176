"""The progress of a sweep's jobs, read from their folders.

Nothing is asked of the processes that run them, so it is the same for every launcher, while a sweep
runs and long after.
"""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from temporal_sae import locks, schemas
from temporal_sae.errors import RunError, one_line
from temporal_sae.files import read_end
from temporal_sae.programs import answer_of
from temporal_sae.report.sweep_facts import RECORD, JobStatus
from temporal_sae.sweep.plan import Job, SweepFolder, jobs_of
from temporal_sae.sweep.states import UNTRIED, State

METRICS = "metrics.jsonl"
LONGEST_LINE = 16 * 1024  # bytes of metrics.jsonl that are sure to hold a whole line
SECONDS_TO_ASK_SLURM = 10
SECONDS_BETWEEN_ASKING = 5
NO_METRICS: schemas.MetricsLine = {"step": 0}
Shown = tuple[str | None, str | None, int | None, float]
CHECKPOINT = re.compile(r"step_(\d{9})\.")


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
    array = note.get("slurm_job")
    in_queue = array is not None and array in slurm_arrays()
    goes_on = is_held(sweep.path) if goes_on is None else goes_on
    found = []
    for job in jobs_of(note):
        known = sweep.states.read(job.number)
        status = read_job(sweep.path / job.folder, job, known, in_queue=in_queue)
        if goes_on and known.outcome is None and status.state in ("missing", "failed"):
            status = replace(status, state="queued")  # again, where its worker has died
        found.append(status)
    return found


def read_job(
    folder: Path, job: Job, known: State = UNTRIED, *, in_queue: bool = False
) -> JobStatus:
    """Return the state of one job, from its folder and what sweep and workers have noted of it.

    Args:
        folder: of the job.
        job: in the sweep's note.
        known: in the note of its workers.
        in_queue: whether a cluster has workers for it.
    """
    try:
        status, reason, total_steps, batch_size = last_record(folder)
    except RunError as error:
        # It can neither be continued nor begun anew while that lies there.
        return JobStatus(job.number, folder, job.overrides, "failed", one_line(error))
    if status == "running" and not is_held(folder):
        status, reason = "failed", without_a_word(folder)
    state, why = state_of(status, reason, job, known, in_queue)
    metrics = last_metrics(folder) if status else NO_METRICS
    step, speed = metrics["step"], finite(metrics.get("tokens_per_second"))
    shows_time = state == "running" and total_steps and speed
    left = max(0, (total_steps or 0) - step) * batch_size
    return JobStatus(
        number=job.number,
        folder=folder,
        overrides=job.overrides,
        state=state,
        reason=why,
        step=step,
        total_steps=total_steps,
        tokens_per_second=speed,
        loss=metrics.get("loss"),
        eta_seconds=finite(left / speed) if shows_time and speed else None,
    )


def state_of(
    status: str | None, reason: str | None, job: Job, known: State, in_queue: bool
) -> tuple[str, str | None]:
    """Return the state of a job and why, from what its record says and what others know of it."""
    if status in ("finished", "running"):
        return status, None
    if in_queue and known.outcome is None:
        return ("running" if known.worker else "queued"), None
    noted = known.outcome.reason if known.outcome else one_line(job.reason)
    if status == "stopped" and not (known.outcome and noted):
        return "stopped", reason
    if status is None and noted is None:
        return "missing", None
    return "failed", noted or reason or "no reason is known"


def last_record(folder: Path) -> Shown:
    """Return what `run.json` says: status, reason, steps in all, and tokens in each of them.

    A record that has not changed since the last look is not read again.

    Raises:
        RunError: it is damaged.
    """
    try:
        stat = os.stat(folder / RECORD)
    except OSError:
        return None, None, None, 0.0
    return _record_of(folder, stat.st_ino, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _record_of(folder: Path, inode: int, moment: int) -> Shown:
    record = read_record(folder)
    status, reason = record.get("status"), one_line(record.get("reason"))
    try:
        trainer = record["config"]["trainer"]
        batch_size = float(trainer["batch_size"])
        return status, reason, max(1, int(float(trainer["num_tokens"]) // batch_size)), batch_size
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        return status, reason, None, 0.0


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
        return last_record(folder)[0] == "finished"
    except RunError:
        return False


def is_held(folder: Path) -> bool:
    """Return whether a process runs in a folder."""
    return locks.is_held(folder / ".lock")


def finite(value: float | None) -> float | None:
    """Return a number; None instead of NaN and infinities."""
    return value if value is not None and math.isfinite(value) else None


def last_metrics(folder: Path) -> schemas.MetricsLine:
    """Return the last whole line of a job's metrics."""
    tail = read_end(folder / METRICS, LONGEST_LINE)
    lines = reversed(tail.split(b"\n"))  # it may begin and end in the middle of one
    return next((metrics for line in lines if (metrics := schemas.metrics_of(line))), NO_METRICS)


def without_a_word(folder: Path) -> str:
    """Return the reason of a job whose process has ended and could not say why."""
    step = last_metrics(folder)["step"]
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
    command = ("squeue", "--me", "--noheader", "--format=%A %F")
    return set((answer_of(*command, seconds=SECONDS_TO_ASK_SLURM) or "").split())
