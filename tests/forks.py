"""`python launch.py` in forks of one process that has imported everything already.

A start costs a fork instead of the seconds that torch and transformers take.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

import launch
from temporal_sae.cli import run_command_line
from temporal_sae.commands import CONF

ROOT = Path(launch.__file__).parent
PRELOADED = [  # whatever a run takes seconds to import
    "launch",
    "temporal_sae.distributed.environment",
    "temporal_sae.eval.saebench.evaluation",
    "temporal_sae.eval.tasks.evaluation",
    "temporal_sae.experiment",
    "temporal_sae.kernels.threads",
    "temporal_sae.schemas",
    "tests.forks",
    "tests.tracker.processes_worker",
    "tests.training.data_parallel_worker",
    "torch._dynamo",
    "torch._refs.linalg",
    "transformers.convert_slow_tokenizer",
    "transformers.models.gemma2.modeling_gemma2",
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def start_process(work, *arguments):
    """Call a function, which can be imported, in a fork; it begins at once."""
    with pytest.MonkeyPatch.context() as patch:
        paths = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), paths])))
        forkserver.ensure_running()
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    return process


def command_line(arguments, folder, log, threads, environment):
    """Be the command line, with all output in a file."""
    descriptor = os.open(log, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ |= environment
    os.chdir(folder)
    torch.set_num_threads(threads)
    sys.argv = ["launch.py", *arguments]
    run_command_line(launch.launch, CONF)


class Fork:
    """A command line that goes on in the background, with the methods of `subprocess.Popen`.

    Args:
        arguments: of `python launch.py`.
        folder: becomes the working directory.
        threads: of torch; None: as many as here.
        environment: more variables.
    """

    def __init__(self, *arguments, folder=".", threads=None, environment=None):
        self._log = tempfile.NamedTemporaryFile(prefix="fork-")  # noqa: SIM115 - lives as long
        self._process = start_process(
            command_line,
            arguments,
            Path(folder).absolute(),
            self._log.name,
            threads or torch.get_num_threads(),
            environment or {},
        )

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def kill(self):
        self._process.kill()

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("launch.py", timeout)
        return self.returncode

    def communicate(self, timeout=None):
        """Wait for the end; (all that was said, None)."""
        self.wait(timeout)
        return Path(self._log.name).read_text(), None
