"""hydra/launcher=local with real processes, that do little."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.sweep import local, slots
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.states import Outcome
from tests.slurm.cluster import PATIENCE, wait_until
from tests.sweep import small_worker
from tests.sweep.folders import is_alive

GIVEN_UP = Outcome("ended without a word at step 0 (killed, or out of memory?)")


@pytest.fixture(autouse=True)
def real_worker(monkeypatch):
    """Whatever `launch` puts in its place, afterwards it is back."""
    monkeypatch.setattr(slots, "WORKER", slots.WORKER)


def outcomes(folder, n):
    return [SweepFolder(folder).states.read(number).outcome for number in range(n)]


def begun(folder, rank=0):
    """What each job that has begun said, by its number."""
    found = folder.glob(f"*/began{rank}")
    return {int(path.parent.name): json.loads(path.read_text()) for path in found}


def test_two_devices_eight_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    small_worker.launch(tmp_path, ["sleep"] * 8, threads=3)
    assert outcomes(tmp_path, 8) == [Outcome()] * 8
    jobs = begun(tmp_path)
    ends = {n: float((tmp_path / f"{n}/ended0").read_text()) for n in jobs}
    at_once = [
        [jobs[n]["CUDA_VISIBLE_DEVICES"] for n in jobs if jobs[n]["time"] <= moment <= ends[n]]
        for moment in (job["time"] for job in jobs.values())
    ]
    assert all(len(devices) == len(set(devices)) for devices in at_once), "two jobs on one device"
    assert {tuple(sorted(devices)) for devices in at_once} >= {("GPU-a", "GPU-b")}
    assert {job["OMP_NUM_THREADS"] for job in jobs.values()} == {"3"}


def test_a_job_that_kills_its_workers_is_given_up_and_the_others_are_done(tmp_path):
    kinds = ["sigkill", "sleep", "sleep"]
    small_worker.launch(tmp_path, kinds, devices="cpu", workers=1)
    assert outcomes(tmp_path, 3) == [GIVEN_UP, Outcome(), Outcome()]
    assert all(job["CUDA_VISIBLE_DEVICES"] == "" for job in begun(tmp_path).values())


def test_processes_of_one_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setenv("WORLD_SIZE", "99")
    small_worker.launch(tmp_path, ["sleep"], processes_per_job=2)
    ranks = [begun(tmp_path, rank)[0] for rank in range(2)]
    assert [rank["RANK"] for rank in ranks] == ["0", "1"]
    assert {rank["WORLD_SIZE"] for rank in ranks} == {"2"}
    assert {rank["CUDA_VISIBLE_DEVICES"] for rank in ranks} == {"4,5"}
    assert len({rank["MASTER_PORT"] for rank in ranks}) == 1


def test_a_process_that_dies_takes_its_worker_along(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "SECONDS_ALONE", 0.1)
    options = {"devices": "cpu", "workers": 1, "processes_per_job": 2}
    small_worker.launch(tmp_path, ["one_rank_dies"], **options)
    assert outcomes(tmp_path, 1) == [GIVEN_UP]
    assert not is_alive(begun(tmp_path, 0)[0]["pid"])


def test_what_a_worker_has_started_ends_with_it(tmp_path):
    # Nobody waits for its child, which would live on for minutes.
    launcher = launch_apart(tmp_path, 1, "with_child")
    (worker,), (first,) = processes_of(tmp_path, 1)
    (tmp_path / "0/child").unlink()
    os.kill(worker, signal.SIGKILL)
    wait_until((tmp_path / "0/child").exists, "a worker in its place")
    assert not is_alive(first)
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=PATIENCE)


def launch_apart(folder, workers, *kinds):
    """The launcher in a process of its own."""
    command = [sys.executable, small_worker.__file__, "launch", str(folder), str(workers), *kinds]
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, text=True
    )


def processes_of(folder, n):
    """Ids of `n` workers, and of their children, once they are there."""
    for job in range(n):
        wait_until((folder / f"{job}/child").exists, "a worker and its child")
    children = [int(path.read_text()) for path in folder.glob("*/child")]
    workers = [job["pid"] for job in begun(folder).values()]
    assert all(map(is_alive, workers + children))
    return workers, children


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_launcher_leaves_no_process(tmp_path, number):
    launcher = launch_apart(tmp_path, 2, *["with_child"] * 3)
    workers, children = processes_of(tmp_path, 2)
    launcher.send_signal(number)
    output = launcher.communicate(timeout=PATIENCE)[0]
    assert launcher.returncode != 0
    assert "stopping 2 jobs" in output
    assert not any(map(is_alive, workers + children))
    assert sorted(begun(tmp_path)) == [0, 1]


def test_a_second_ctrl_c_ends_workers_that_do_not_listen(tmp_path):
    launcher = launch_apart(tmp_path, 1, "stubborn")
    workers, children = processes_of(tmp_path, 1)
    launcher.send_signal(signal.SIGINT)
    assert launcher.stdout.readline().startswith("stopping 1 job")
    assert all(map(is_alive, workers + children))
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=PATIENCE)
    assert not any(map(is_alive, workers + children))


def test_workers_stop_when_their_launcher_is_killed(tmp_path):
    launcher = launch_apart(tmp_path, 2, *["with_child"] * 3)
    workers, children = processes_of(tmp_path, 2)
    launcher.kill()
    launcher.communicate(timeout=PATIENCE)
    wait_until(lambda: not any(map(is_alive, workers)), "the end of the workers")
    assert sorted(begun(tmp_path)) == [0, 1]
    for pid in children:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"devices": [7]}, r"hydra\.launcher\.devices=\[7\]: must be auto, cpu, or a list"),
        ({"threads": "all"}, r"hydra\.launcher\.threads='all': must be"),
    ],
)
def test_bad_options(tmp_path, monkeypatch, option, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(InvalidOption, match=message):
        small_worker.launch(tmp_path, ["sleep"], **option)
    assert not begun(tmp_path)


def test_workers_that_end_before_they_have_begun(tmp_path):
    told = r"no worker can start \(ended with exit code 1: plugins='broken': must be another\)"
    with pytest.raises(RunError, match=told):
        small_worker.launch(tmp_path, ["sleep"], ["broken"], devices="cpu", workers=1)
