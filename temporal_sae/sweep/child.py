"""One process of a job, forked from the one that has imported everything."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from numbers import Real
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from temporal_sae import signals
from temporal_sae.errors import JobFailed, JobRefused
from temporal_sae.files import open_to_append, remove_if_empty
from temporal_sae.sweep.messages import Outcome, Start

LOG = "log.txt"
RECORD = "run.json"
LONGEST_REASON = 2000  # characters: the whole outcome must fit into a pipe
STOP = signals.STOP


@dataclass(frozen=True)
class Task:
    """The settings that all jobs of a launch share.

    Args:
        context: Hydra's, with its config loader.
        function: what runs a composed config.
        config: of the sweep as a whole.
        singletons: Hydra's global state.
    """

    context: HydraContext
    function: TaskFunction
    config: DictConfig
    singletons: Any


def run(task: Task, start: Start, answer: int, lifeline: int) -> int:
    """Run the job and say how it has ended.

    Args:
        task: what to run.
        start: with which overrides, and where.
        answer: descriptor that takes the outcome.
        lifeline: descriptor that closes when nobody waits for the job any more.

    Returns:
        The exit code.
    """
    os.setsid()  # whatever the job starts can be ended with it, and the terminal's Ctrl-C cannot
    folder: Path | None = None
    try:
        take_signals()
        set_environment(start.environment)
        threading.Thread(target=stop_when_alone, args=(lifeline,), daemon=True).start()
        config = compose(task, start)
        folder = folder_of(config)
        log_to(folder / LOG, start)
        outcome, code = outcome_of(run_in(task, config))
    except (KeyboardInterrupt, SystemExit) as stopped:
        outcome, code = outcome_of_exit(stopped)
    except Exception as error:
        logging.getLogger(__name__).exception("the job could not be started")
        outcome, code = Outcome(reason=one_line(error)), 1
    for number in STOP:  # it has ended, and how must be told
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # nobody listens any more
        os.write(answer, json.dumps(asdict(outcome)).encode())
    if folder is not None and (outcome.refused or code - 128 in STOP):
        remove_needless_log(folder)
    return code


def take_signals() -> None:
    """Stop signals as in a program that a person has started; they were held back so far."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signals.take()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


def set_environment(values: Mapping[str, str | None]) -> None:
    """Set variables, or remove those with None."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def stop_when_alone(lifeline: int) -> None:
    """Wait until the launcher is gone, however it has ended; then stop as if asked to."""
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def compose(task: Task, start: Start) -> DictConfig:
    """Return the job's config."""
    config = task.context.config_loader.load_sweep_config(task.config, list(start.overrides))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = start.number
    return config


def folder_of(config: DictConfig) -> Path:
    """Return the job's folder."""
    HydraConfig.instance().set_config(config)
    return Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)


def log_to(path: Path, start: Start) -> None:
    """Let everything that is printed go to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    descriptor = open_to_append(path)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()  # a crash in native code leaves its place in the log
    if start.rank == 0:
        when = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        sys.stdout.write(f"--- {when} · {start.place} · process {os.getpid()}\n")


def run_in(task: Task, config: DictConfig) -> JobReturn:
    """Hydra's way of running one job of a sweep."""
    return run_job(
        hydra_context=task.context,
        task_function=task.function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def outcome_of(job: JobReturn) -> tuple[Outcome, int]:
    """Return the report on a job that has run, and its exit code."""
    value = job._return_value
    if job.status == JobStatus.COMPLETED:
        return Outcome(objective=float(value) if isinstance(value, Real) else None), 0
    return Outcome(reason=one_line(value), refused=isinstance(value, JobRefused)), 1


def outcome_of_exit(stopped: BaseException) -> tuple[Outcome, int]:
    """Return the report on a job ended by a signal or `sys.exit`, and its exit code."""
    code = signals.exit_code(stopped)
    if isinstance(stopped, SystemExit):
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    if code - 128 in STOP:
        return Outcome(reason=f"stopped by {signal.Signals(code - 128).name}"), code
    return Outcome(reason=f"ended with exit code {code}", wordless=True), code


def one_line(error: BaseException) -> str:
    """Return an error in one line, with its kind unless it speaks for itself."""
    words = " ".join(str(error).split())
    if not isinstance(error, JobFailed):
        words = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return words[:LONGEST_REASON]


def remove_needless_log(folder: Path) -> None:
    """Delete the log of a job that began no run: the launcher says the same."""
    if not (folder / RECORD).exists():
        (folder / LOG).unlink(missing_ok=True)
        remove_if_empty(folder)
