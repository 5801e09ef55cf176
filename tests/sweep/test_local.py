"""hydra/launcher=local with real processes, that do little."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.utils import JobStatus

from temporal_sae.errors import InvalidOption, JobRefused, RunError
from temporal_sae.sweep import local
from tests.sweep import local_jobs

PATIENCE = 30


@pytest.fixture(autouse=True)
def nothing_preloaded(monkeypatch):
    """These jobs need nothing that takes long to import."""
    monkeypatch.setattr(local, "PRELOADED", ())


def begun(folder, rank=0):
    """What each job that has begun said, by its number."""
    found = (folder / "sweep").glob(f"*/began{rank}")
    return {int(path.parent.name): json.loads(path.read_text()) for path in found}


def spans(folder):
    """Begin, end and device of every job."""
    ends = {n: float((folder / f"sweep/{n}/ended0").read_text()) for n in begun(folder)}
    return [(job["time"], ends[n], job["CUDA_VISIBLE_DEVICES"]) for n, job in begun(folder).items()]


def test_two_devices_eight_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    results = local_jobs.launch(tmp_path, ["sleep"] * 8, threads=3)
    assert [result.return_value for result in results] == [n / 2 for n in range(8)]
    times = spans(tmp_path)
    assert len(times) == 8
    most = 0
    for moment, _, _ in times:
        there = [device for begin, end, device in times if begin <= moment <= end]
        assert len(there) == len(set(there)), "two jobs on one device"
        most = max(most, len(there))
    assert most == 2
    assert {device for _, _, device in times} == {"GPU-a", "GPU-b"}
    assert {job["OMP_NUM_THREADS"] for job in begun(tmp_path).values()} == {"3"}
    for n in range(8):
        first, second = (tmp_path / f"sweep/{n}/log.txt").read_text().splitlines()
        assert first.startswith("--- ")
        assert "GPU-" in first
        assert second == "a job of kind sleep"


def test_each_failure_is_told_and_none_stops_the_others(tmp_path):
    kinds = ["sigkill", "crash", "refuse", "exit", "sleep", "sleep"]
    results = local_jobs.launch(tmp_path, kinds, devices="cpu", workers=1)
    told = [str(r._return_value) for r in results if r.status == JobStatus.FAILED]
    assert told == [
        "killed by SIGKILL",
        "ValueError: no luck at all",
        "kind=refuse: must be another",
        "ended with exit code 7",
    ]
    assert isinstance(results[2]._return_value, JobRefused)
    assert [r.return_value for r in results[4:]] == [2.0, 2.5]
    assert all(job["CUDA_VISIBLE_DEVICES"] == "" for job in begun(tmp_path).values())
    # The refused job has left its own file alone, as if it had never run.
    assert [p.name for p in (tmp_path / "sweep/2").iterdir()] == ["began0"]


def test_processes_of_one_job(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setenv("WORLD_SIZE", "99")
    results = local_jobs.launch(tmp_path, ["sleep", "sleep"], processes_per_job=2)
    assert [result.return_value for result in results] == [0.0, 0.5]
    ports = []
    for job in range(2):
        ranks = [begun(tmp_path, rank)[job] for rank in range(2)]
        assert [rank["RANK"] for rank in ranks] == ["0", "1"]
        assert {rank["WORLD_SIZE"] for rank in ranks} == {"2"}
        (devices,) = {rank["CUDA_VISIBLE_DEVICES"] for rank in ranks}
        assert devices == ("4,5", "6,7")[job]
        ports += {rank["MASTER_PORT"] for rank in ranks}
    assert len(set(ports)) == 2


@pytest.mark.slow
def test_a_process_that_dies_takes_its_job_along(tmp_path, monkeypatch):
    monkeypatch.setattr("temporal_sae.sweep.pool.SECONDS_ALONE", 0.1)
    options = {"devices": "cpu", "workers": 1, "processes_per_job": 2}
    died, fine = local_jobs.launch(tmp_path, ["one_rank_dies", "sleep"], **options)
    assert str(died._return_value) == "killed by SIGKILL"
    assert fine.return_value == 0.5
    assert not is_alive(begun(tmp_path, 0)[0]["pid"])


@pytest.mark.slow
def test_what_a_job_has_started_ends_with_it(tmp_path):
    # Nobody waits for its child, which would live on for minutes.
    start = time.monotonic()
    thread = launch_apart(tmp_path, 1, "with_child", "sleep")
    wait_for(tmp_path / "sweep/0/child")
    job, child = begun(tmp_path)[0]["pid"], int((tmp_path / "sweep/0/child").read_text())
    os.kill(job, signal.SIGKILL)
    assert thread.wait(PATIENCE) == 0
    assert time.monotonic() - start < PATIENCE
    assert not is_alive(child)
    assert (tmp_path / "sweep/1/ended0").exists()


@pytest.mark.slow
def test_the_parent_of_all_jobs_is_killed(tmp_path):
    results = local_jobs.launch(tmp_path, ["kill_parent", "sleep"], devices="cpu", workers=1)
    assert str(results[0]._return_value) == "ended with its parent, which was killed by SIGKILL"
    assert results[1].return_value == 0.5
    wait_until(lambda: not is_alive(begun(tmp_path)[0]["pid"]))


def launch_apart(folder, workers, *kinds):
    """The launcher in a process of its own."""
    command = [sys.executable, local_jobs.__file__, str(folder), str(workers), *kinds]
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, text=True
    )


def processes_of(folder, n):
    """Ids of `n` jobs and their children, once they are there."""
    for job in range(n):
        wait_for(folder / f"sweep/{job}/child")
    children = [int(path.read_text()) for path in folder.glob("sweep/*/child")]
    jobs = [job["pid"] for job in begun(folder).values()]
    assert all(is_alive(pid) for pid in jobs + children)
    return jobs + children


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_stopped_launcher_leaves_no_process(tmp_path, number):
    launcher = launch_apart(tmp_path, 2, *["with_child"] * 3)
    pids = processes_of(tmp_path, 2)
    launcher.send_signal(number)
    output = launcher.communicate(timeout=PATIENCE)[0]
    assert launcher.returncode != 0
    assert "stopping 2 jobs" in output
    assert not any(is_alive(pid) for pid in pids)
    assert sorted(begun(tmp_path)) == [0, 1]


@pytest.mark.slow
def test_a_second_ctrl_c_ends_jobs_that_do_not_listen(tmp_path):
    launcher = launch_apart(tmp_path, 1, "stubborn")
    pids = processes_of(tmp_path, 1)
    launcher.send_signal(signal.SIGINT)
    assert launcher.stdout.readline().startswith("stopping 1 job")
    assert all(is_alive(pid) for pid in pids)
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=PATIENCE)
    assert not any(is_alive(pid) for pid in pids)


def test_jobs_stop_when_their_launcher_is_killed(tmp_path):
    launcher = launch_apart(tmp_path, 2, *["with_child"] * 3)
    pids = processes_of(tmp_path, 2)
    launcher.kill()
    launcher.communicate(timeout=PATIENCE)
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    assert sorted(begun(tmp_path)) == [0, 1]


@pytest.mark.slow
def test_ctrl_c_before_any_job_has_begun(tmp_path):
    launcher = launch_apart(tmp_path, 1, "with_child")
    wait_for(tmp_path / "sweep")
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode != 0
    for job in begun(tmp_path).values():  # it may just have
        assert not is_alive(job["pid"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"devices": [7]}, r"hydra\.launcher\.devices=\[7\]: must be auto, cpu, or a list"),
        ({"workers": 0, "devices": "cpu"}, r"hydra\.launcher\.workers=0: must be"),
        ({"threads": "all"}, r"hydra\.launcher\.threads='all': must be"),
        ({"processes_per_job": 3}, r"hydra\.launcher\.processes_per_job=3: must be at most"),
    ],
)
def test_bad_options(tmp_path, monkeypatch, option, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(InvalidOption, match=message):
        local_jobs.launch(tmp_path, ["sleep"], **option)
    assert not (tmp_path / "sweep").exists()


def test_jobs_that_cannot_be_started(tmp_path, monkeypatch):
    monkeypatch.setattr(local.LocalLauncher, "_pickled_task", lambda self: b"no pickle")
    with pytest.raises(RunError, match=r"no job can start \(ended with exit code 1\)"):
        local_jobs.launch(tmp_path, ["sleep"], devices="cpu", workers=1)


def is_alive(pid):
    """Whether a process runs; one that has ended and is not waited for does not."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def wait_until(is_so):
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def wait_for(path):
    wait_until(path.exists)
