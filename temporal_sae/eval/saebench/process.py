"""Run one evaluation of SAEBench in a process of its own.

sae_bench changes the global state of the process it runs in, reads and writes relative to the
working directory, and takes gigabytes that should be given back. So each evaluation gets a process,
a folder that is deleted with it, and a log.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from temporal_sae.errors import RunError
from temporal_sae.eval.saebench.options import Job
from temporal_sae.files import read_end, write_json
from temporal_sae.training.progress import duration

PACKAGE_ROOT = Path(__file__).resolve().parents[3]
JOB, RESULT = "job.json", "result.json"  # in the working directory
WORKER = ("-P", "-m", "temporal_sae.eval.saebench.worker")
POLL_SECONDS = 0.25
GRACE_SECONDS = 5.0
TAIL_BYTES = 65536
ERROR_LINE = re.compile(r"(?:error: |(?:[\w.]+(?:Error|Exception|Interrupt|Exit)|Killed)\b)")
PROGRESS_LINE = re.compile(r"\d+%\||\d+it \[|\d+/\d+ \[")
LINE_ENDS = re.compile(r"(?:[\r\n]|\x1b\[[\d;?]*[A-Za-z])+")  # cursors move between bars


def run_worker(
    job: Job, work: Path, log: Path, data_folder: Path | None, seconds: float | None = None
) -> dict[str, Any]:
    """Return SAEBench's record.

    Args:
        job: what to do.
        work: becomes the working directory; made by `working_directory`.
        log: receives everything that the process prints.
        data_folder: folders ORG/NAME that stand for the hub; None: the hub itself.
        seconds: when to stop it; None: never.

    Raises:
        RunError: it has ended without a result; why, in one line.
    """
    if data_folder is not None:
        link_organizations(data_folder, work)
    write_json(work / JOB, asdict(job))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *WORKER, JOB],
            cwd=work,
            env=environment(work, offline=data_folder is not None),
            stdin=subprocess.PIPE,  # closes when this process ends, which ends the other
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(process, job.evaluation, log, seconds)
    finally:
        end_group(process)
    try:
        record: dict[str, Any] = json.loads((work / RESULT).read_text())
    except (OSError, ValueError):
        raise RunError(reason(process.returncode, log)) from None
    return record


def _wait(process: subprocess.Popen[bytes], name: str, log: Path, seconds: float | None) -> None:
    """Wait for its end, with its newest progress bar in one line on a terminal."""
    began, console = time.monotonic(), Console()
    with console.status("saebench") if console.is_terminal else nullcontext() as status:
        while process.poll() is None:
            elapsed = time.monotonic() - began
            if seconds is not None and elapsed > seconds:
                raise RunError(f"stopped after timeout_minutes={seconds / 60:g} (log: {log})")
            if status is not None:
                shown = (f"saebench {name}", duration(elapsed), newest_progress(log))
                status.update(Text(" · ".join(part for part in shown if part)))
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started, if any of them still runs."""
    for number, grace in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
            break
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


def environment(work: Path, offline: bool) -> dict[str, str]:
    """Return the variables of the subprocess.

    The working directory is no place to import from, since folders there are named after
    organizations of the hub. What `datasets` makes of a local folder is kept there: its own cache
    would take one folder for another of the same name.
    """
    inherited = [str(Path(p).resolve()) for p in os.environ.get("PYTHONPATH", "").split(":") if p]
    hub = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(work / "cache" / "datasets"),
        "HF_MODULES_CACHE": str(work / "cache" / "modules"),
    }
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "PYTHONPATH": ":".join([str(PACKAGE_ROOT), *inherited]),
        "PYTHONUNBUFFERED": "1",
        "JAXTYPING_DISABLE": "1",  # sae_bench's own annotations do not hold everywhere
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_MININTERVAL": "1",
        **(hub if offline else {}),
    }


def link_organizations(data_folder: Path, work: Path) -> None:
    """Make ORG/NAME below `data_folder` readable as a relative path, which goes before the hub."""
    for folder in sorted(data_folder.resolve().iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            (work / folder.name).symlink_to(folder, target_is_directory=True)


@contextmanager
def working_directory(folder: Path, name: str) -> Iterator[Path]:
    """Give an empty folder that is deleted in the end; what a killed process has left goes first.

    Raises:
        RunError: it cannot be made.
    """
    work = (folder / f"{name}.running").resolve()
    shutil.rmtree(work, ignore_errors=True)
    make_folder(work)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        RunError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made ({error.strerror})") from error


def reason(returncode: int, log: Path) -> str:
    """Return why a process has ended, in one line: the signal, or the last error in its log."""
    if returncode < 0:
        name = signal.Signals(-returncode).name
        text = f"ended by {name}" + ", as when memory runs out" * (name == "SIGKILL")
    else:
        lines = [line.strip() for line in last_lines(log) if line.strip()]
        errors = [line for line in lines if ERROR_LINE.match(line)]
        text = (errors or lines or [f"exit code {returncode}"])[-1].removeprefix("error: ")
    return f"{text} (log: {log})"


def newest_progress(log: Path) -> str:
    """Return the newest progress bar in a log, shortened; empty where there is none."""
    bars = [line for line in last_lines(log) if PROGRESS_LINE.search(line)]
    return bars[-1].strip()[:100] if bars else ""


def last_lines(log: Path) -> list[str]:
    """Return the last lines of a log, where a progress bar counts as many lines."""
    return LINE_ENDS.split(read_end(log, TAIL_BYTES).decode(errors="replace"))
