"""Run one evaluation of SAEBench: `python -m temporal_sae.eval.saebench.worker JOB.json`.

Started by `process`, in a working directory of its own. What goes wrong is told in one line that
begins with `error: `, the last one it writes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from temporal_sae import signals
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval.saebench import guards
from temporal_sae.eval.saebench.adapter import SAEBenchSAE
from temporal_sae.eval.saebench.entries import run_entry
from temporal_sae.eval.saebench.explain import explain
from temporal_sae.eval.saebench.work import Job
from temporal_sae.files import write_json
from temporal_sae.sae import load_sae


def main(path: str) -> None:
    """Do what the job file says."""
    job = Job.load(Path(path))
    sys.excepthook = lambda kind, error, trace: tell(job.evaluation, error, trace)
    write_json(Path(job.result), evaluate(job))


def evaluate(job: Job) -> dict[str, Any]:
    """SAEBench's record of the job's SAE; a number that is not finite is still NaN in it."""
    if job.device == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings: Any = torch.utils.deterministic
        settings.fill_uninitialized_memory = False  # costs time, changes nothing
    guards.seed_everything(job.seed)
    sae = SAEBenchSAE(load_sae(job.sae_folder, job.device), job)
    guards.without_published_saes()
    with guards.grad_mode_kept():
        return guards.finished(run_entry(job, sae))


def tell(evaluation: str, error: BaseException, trace: TracebackType | None) -> None:
    """The traceback where it is no mistake that a person can correct, and one line."""
    if isinstance(error, (InvalidOption, RunError)):
        line = str(error)
    else:
        traceback.print_exception(type(error), error, trace)
        line = explain(evaluation, error)
    sys.stderr.write(f"error: {line}\n")


def end_with_the_parent() -> None:
    """Wait until the other end of standard input closes, and then end this process group."""
    os.read(sys.stdin.fileno(), 1)
    os.killpg(os.getpgrp(), signal.SIGTERM)


if __name__ == "__main__":
    signals.let_go()  # its parent ends it, in the midst of native code if need be
    if os.getsid(0) == os.getpid():  # by hand it has a terminal, whose end says nothing
        threading.Thread(target=end_with_the_parent, daemon=True).start()
    main(sys.argv[1])
