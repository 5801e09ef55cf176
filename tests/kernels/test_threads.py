"""The compiled loops take as many threads as torch has, or one where the work is small."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from temporal_sae.kernels.threads import LEAST_BYTES, in_parts, on_threads

SMALL, LARGE = np.zeros(8), np.zeros(LEAST_BYTES)


@pytest.fixture
def threads():
    """Sets torch's number of threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def who_works(*arguments):
    """The threads that did the parts of a loop, in order."""
    found = {}

    def loop(part, parts, *arguments):
        found[part] = threading.get_ident()
        assert part < parts

    on_threads(loop, *arguments)
    return [found[part] for part in sorted(found)]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_large_work_is_shared_by_as_many_threads_as_torch_has(threads, n):
    threads(n)
    workers = who_works(SMALL, (LARGE,))
    assert len(workers) == n
    assert workers[0] == threading.get_ident()
    assert threading.get_ident() not in workers[1:]


def test_small_work_stays_in_the_thread_that_asks(threads):
    threads(4)
    assert who_works(SMALL, 3, (SMALL, SMALL)) == [threading.get_ident()]


def test_what_a_part_raises_is_raised_after_all_are_done():
    done = []

    def work(part):
        if part == 1:
            raise ValueError("part 1")
        done.append(part)

    with pytest.raises(ValueError, match="part 1"):
        in_parts(work, 3)
    assert sorted(done) == [0, 2]


def test_a_forked_process_can_use_them_too(threads):
    threads(2)
    assert len(set(who_works(LARGE))) == 2
    child = os.fork()
    if child == 0:
        os._exit(0 if len(set(who_works(LARGE))) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


TRAIN = """
import os
from pathlib import Path
from rich.console import Console
import scipy.linalg  # brings threads of its own
import torch
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.sae import TopKSAE
from temporal_sae.tracker import CoActivationTracker
from temporal_sae.training import Checkpoints, NoLogger, Parts, ProgressDisplay, Trainer

torch.set_num_threads(1)
before = len(os.listdir("/proc/self/task"))
Trainer(512 * 3, 512, warmup_steps=0).fit(
    Parts(
        TopKSAE(64, 256, 8), torch.randn(2048, 64), CoActivationTracker(256, window_size=500),
        OrthogonalityLoss(), NoLogger(), Checkpoints(Path("checkpoints")),
        ProgressDisplay(3, Console(quiet=True)),
    )
)
print(torch.get_num_threads(), len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_the_library_takes_no_thread_that_torch_was_not_given(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    told = subprocess.run(
        [sys.executable, "-c", TRAIN],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["1", "0"]
