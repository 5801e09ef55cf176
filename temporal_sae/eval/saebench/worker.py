"""Run one evaluation of SAEBench: `python -m temporal_sae.eval.saebench.worker JOB.json`.

Started by `process`, in a working directory of its own. What goes wrong is told in one line that
begins with `error: `, the last one it writes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from temporal_sae import signals
from temporal_sae.errors import RunError
from temporal_sae.eval.saebench import entries, guards, outside
from temporal_sae.eval.saebench.adapter import SAEBenchSAE
from temporal_sae.eval.saebench.options import Job
from temporal_sae.eval.saebench.process import RESULT
from temporal_sae.files import write_json
from temporal_sae.sae import load_sae

KEY = re.compile(r"\bsk-[\w*-]+")
LONGEST = 300  # characters of a reason


def main(path: str) -> None:
    """Do what the job file says."""
    job = Job(**json.loads(Path(path).read_text()))
    sys.excepthook = tell
    write_json(Path(RESULT), evaluate(job))


def evaluate(job: Job) -> dict[str, Any]:
    """Return SAEBench's record of the job's SAE; what is not finite is still NaN in it."""
    if job.device == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings: Any = torch.utils.deterministic
        settings.fill_uninitialized_memory = False  # costs time, changes nothing
    Path(job.artifacts).mkdir(parents=True, exist_ok=True)
    guards.seed_everything(job.seed)
    sae = SAEBenchSAE(load_sae(job.sae_folder, job.device), job)
    guards.without_published_saes()
    module = entries if hasattr(entries, job.evaluation) else outside
    return guards.finished(getattr(module, job.evaluation)(job, sae))


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write one line, and the traceback before it unless a person can correct the mistake."""
    if not isinstance(error, RunError):
        traceback.print_exception(kind, error, trace)
    line = str(error) if isinstance(error, RunError) else first_line(error)
    sys.stderr.write(f"error: {line}\n")


def first_line(error: BaseException) -> str:
    """Return kind, message and place in one line of bounded length, without keys of an API.

    The place is the innermost function of sae_bench; an assertion without a message is quoted.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = ([frame for frame in frames if "sae_bench" in frame.filename] or frames)[-1:]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines or [frame.line or "" for frame in place]
    text = KEY.sub("sk-…", ": ".join([type(error).__name__, *lines[:1]]))[:LONGEST]
    return text + "".join(f" (in {frame.name})" for frame in place)


def end_with_the_parent() -> None:
    """Wait until the other end of standard input closes, and then end this process group."""
    os.read(sys.stdin.fileno(), 1)
    os.killpg(os.getpgrp(), signal.SIGTERM)


if __name__ == "__main__":
    signals.let_go()  # its parent ends it, in the midst of native code if need be
    if os.getsid(0) == os.getpid():  # by hand it has a terminal, whose end says nothing
        threading.Thread(target=end_with_the_parent, daemon=True).start()
    main(sys.argv[1])
