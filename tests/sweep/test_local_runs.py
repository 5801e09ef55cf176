"""hydra/launcher=local from the command line, with whole runs that are stopped and continued."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from temporal_sae.files import TEMPORARY
from tests.slurm.cluster import wait_until
from tests.sweep.folders import is_alive
from tests.test_end_to_end import LONGER, ROOT, sha256

pytestmark = pytest.mark.slow
LAUNCH = (sys.executable, str(ROOT / "launch.py"))
WINDOWS = (200, 300, 400)
PATIENCE = 300


def start(options, folder):
    """A sweep over the windows on two workers, in a session of its own as a terminal gives it."""
    windows = ",".join(str(window) for window in WINDOWS)
    launcher = "hydra/launcher=local hydra.launcher.devices=cpu hydra.launcher.workers=2"
    command = [
        *(*LAUNCH, "-m", *launcher.split(), "hydra.launcher.threads=1"),
        "hydra.sweep.subdir=${tracker.window_size}",
        *(*options, f"tracker.window_size={windows}", f"hydra.sweep.dir={folder}"),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, text=True, start_new_session=True, **pipes)


def finish(process):
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    return output


def wait_for_training(folder, steps):
    """Until a job has got so far."""
    metrics = folder / "metrics.jsonl"

    def is_so():
        return metrics.exists() and metrics.read_text().count("\n") >= steps / 5

    wait_until(is_so, f"step {steps}", 0.01, PATIENCE)


def processes_in(folder, window="*"):
    """Ids of all processes that have written a part of a log."""
    logs = "".join(path.read_text() for path in folder.glob(f"{window}/log.txt"))
    return [int(pid) for pid in re.findall(r"^--- .* process (\d+)$", logs, re.MULTILINE)]


@pytest.fixture(scope="module")
def options(random_gemma):
    own = [option for option in LONGER if not option.startswith("tracker.window_size")]
    return (f"model.name={random_gemma}", *own)


@pytest.fixture(scope="module")
def undisturbed(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    output = finish(start(options, folder))
    assert "3 of 3 finished" in output
    return folder


def assert_as_undisturbed(folder, undisturbed):
    for window in WINDOWS:
        assert json.loads((folder / f"{window}/run.json").read_text())["status"] == "finished"
        assert sha256(folder / str(window)) == sha256(undisturbed / str(window))
    assert_tidy(folder)


def assert_tidy(folder):
    """No half of a file."""
    assert not list(folder.rglob(f"{TEMPORARY}*"))


def test_a_job_is_the_run_that_it_would_be_alone(options, undisturbed, tmp_path):
    window = WINDOWS[-1]
    words = [*options, f"tracker.window_size={window}", f"hydra.run.dir={tmp_path}/run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*LAUNCH, *words], check=True, env=environment)
    assert sha256(tmp_path / "run") == sha256(undisturbed / str(window))
    assert_tidy(undisturbed)


def test_ctrl_c_stops_all_jobs_and_the_same_command_goes_on(options, undisturbed, tmp_path):
    folder = tmp_path / "sweep"
    process = start(options, folder)
    for window in (WINDOWS[0], WINDOWS[2]):  # a job of each worker
        wait_for_training(folder / str(window), 20)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "stopping 3 jobs" in output
    assert f"hydra.sweep.dir={folder}" in output
    assert len(pids := set(processes_in(folder))) == 2
    assert not any(map(is_alive, pids))
    assert_tidy(folder)
    begun = [path.parent for path in folder.glob("*/run.json")]
    assert len(begun) >= 2
    for job in begun:
        assert json.loads((job / "run.json").read_text())["status"] == "stopped"
        assert "stopped at step" in (job / "log.txt").read_text()
    finish(start(options, folder))
    assert "continuing at step" in (folder / f"{WINDOWS[0]}/log.txt").read_text()
    assert_as_undisturbed(folder, undisturbed)
