"""What the folders of jobs say about how far they are."""

import fcntl
import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from temporal_sae.experiment.folder import RunFolder
from temporal_sae.sweep import status
from temporal_sae.sweep.plan import Job
from temporal_sae.sweep.states import Outcome, State
from temporal_sae.sweep.status import read_job, read_sweep
from tests.sweep.folders import leave, planned

CONFIG = {"trainer": {"num_tokens": 1100, "batch_size": 100}}
JOB = Job(3, "3_a=1", ("a=1",))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / JOB.folder
    folder.mkdir()
    return folder


def record(folder, state, **more):
    leave(folder, state, config=CONFIG, **more)


def metrics(folder, *steps, rest=""):
    lines = [json.dumps({"step": s, "loss": 1 / s, "tokens_per_second": 50.0}) for s in steps]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n" + rest)


def test_a_finished_job(folder):
    record(folder, "finished")
    metrics(folder, 10, 11)
    found = read_job(folder, JOB)
    assert (found.number, found.folder, found.overrides) == (3, folder, ("a=1",))
    assert (found.state, found.reason, found.step, found.total_steps) == ("finished", None, 11, 11)
    assert (found.loss, found.tokens_per_second, found.eta_seconds) == (1 / 11, 50.0, None)


def test_a_running_job_is_one_whose_folder_is_held(folder):
    record(folder, "running")
    metrics(folder, 1, 5, rest='{"step": 7, "lo')
    with FileLock(folder / ".lock"):
        found = read_job(folder, JOB)
    assert (found.state, found.step) == ("running", 5)
    assert found.eta_seconds == 6 * 100 / 50


def test_a_job_that_was_killed_is_told_from_one_that_runs(folder):
    record(folder, "running")
    metrics(folder, 4)
    (folder / ".lock").touch()
    found = read_job(folder, JOB)
    assert found.state == "failed"
    assert found.reason == "ended without a word at step 4 (killed, or out of memory?)"
    noted = Job(3, JOB.folder, JOB.overrides, reason="killed by SIGKILL")
    assert read_job(folder, noted).reason == "killed by SIGKILL"


def test_looking_leaves_nothing_and_is_in_nobodys_way(folder):
    record(folder, "running")
    before = sorted(folder.iterdir())
    assert read_job(folder, JOB).state == "failed"
    assert sorted(folder.iterdir()) == before
    (folder / ".lock").touch()
    looks = os.open(folder / ".lock", os.O_RDONLY)
    fcntl.flock(looks, fcntl.LOCK_SH)
    threading.Timer(0.05, os.close, [looks]).start()
    run = RunFolder(folder)
    with run.held():
        assert status.is_held(folder)
    assert not status.is_held(folder)


def test_jobs_that_stopped_failed_or_are_missing(folder):
    assert read_job(folder, JOB).state == "missing"
    noted = Job(3, JOB.folder, JOB.overrides, reason="a=1: must be\n at least 2")
    assert read_job(Path("/no/such"), noted).state == "failed"
    record(folder, "stopped", reason="stopped at step 5")
    found = read_job(folder, noted)
    assert (found.state, found.reason) == ("stopped", "stopped at step 5")
    record(folder, "failed", reason="two\nlines")
    found = read_job(folder, JOB)
    assert (found.state, found.reason) == ("failed", "two lines")
    record(folder, "failed")
    assert read_job(folder, JOB).reason == "no reason is known"


def test_a_damaged_record_is_the_reason_and_damaged_metrics_are_passed_over(folder):
    (folder / "run.json").write_text("{")
    assert read_job(folder, JOB).state == "failed"
    assert "run.json: cannot be read" in read_job(folder, JOB).reason
    record(folder, "running")
    (folder / "metrics.jsonl").write_bytes(b"\xff\n[1]\n" + b"x" * 50_000)
    assert read_job(folder, JOB).step == 0


def test_the_last_line_is_found_without_reading_a_long_file(folder):
    record(folder, "finished")
    metrics(folder, *range(1, 3000))
    began = time.perf_counter()
    assert read_job(folder, JOB).step == 2999
    assert time.perf_counter() - began < 0.1


@pytest.mark.parametrize(
    ("known", "written", "state"),
    [
        (State(), None, "queued"),
        (State(), "stopped", "queued"),
        (State(1, worker="n1:7"), None, "running"),
        (State(1, worker="n1:7"), "running", "running"),
        (State(1, worker="n1:7"), "finished", "finished"),
        (State(1, worker="n1:7", outcome=Outcome("a=1: must be 2")), None, "failed"),
    ],
)
def test_jobs_whose_workers_are_in_slurms_queue(folder, known, written, state):
    if written:
        record(folder, written)
    assert read_job(folder, JOB, known, in_queue=True).state == state


def test_the_queue_is_asked_for_a_sweep_that_it_has(tmp_path, monkeypatch):
    sweep = planned(tmp_path, [{}])
    monkeypatch.setattr(status, "slurm_arrays", lambda: pytest.fail("there is no SLURM job"))
    assert read_sweep(tmp_path)[0].state == "missing"
    sweep.note("slurm_job", "12")
    for queue, state in (({"12", "13"}, "queued"), (set(), "missing")):
        monkeypatch.setattr(status, "slurm_arrays", lambda queue=queue: queue)
        assert read_sweep(tmp_path)[0].state == state


def test_what_has_not_begun_is_queued_as_long_as_the_sweep_goes_on(tmp_path):
    sweep = planned(tmp_path, [{}] * 4)
    for number, state in ((1, "stopped"), (2, "running"), (3, "failed")):
        record(tmp_path / f"{number}_x", state)
    sweep.states.write(2, State(1, worker="n1:7"))  # which has died
    sweep.states.write(3, State(1, outcome=Outcome("a=3: must be 2")))

    def seen(**how):
        return [job.state for job in read_sweep(tmp_path, **how)]

    over = ["missing", "stopped", "failed", "failed"]
    with sweep.held():
        assert seen() == ["queued", "stopped", "queued", "failed"]
        assert "ended without a word" in read_sweep(tmp_path)[2].reason
        assert seen(goes_on=False) == over
    assert seen() == over


def test_a_record_that_has_not_changed_is_read_once(folder, monkeypatch):
    record(folder, "finished")
    assert read_job(folder, JOB).state == "finished"
    with monkeypatch.context() as patch:
        patch.setattr(status, "read_record", lambda path: pytest.fail("again"))
        assert read_job(folder, JOB).state == "finished"
    record(folder, "stopped", reason="stopped at step 5")
    assert read_job(folder, JOB).state == "stopped"


def test_the_queue_as_squeue_prints_it(tmp_path, monkeypatch):
    squeue, moment = tmp_path / "squeue", 0.0
    squeue.write_text("#!/bin/sh\necho 14 12\necho 13 13\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(status, "time", SimpleNamespace(monotonic=lambda: moment))
    assert status.slurm_arrays() == {"12", "13", "14"}
    squeue.write_text("#!/bin/sh\nexit 1\n")
    moment = 4.9
    assert status.slurm_arrays() == {"12", "13", "14"}  # it is not asked again at once
    moment = 60.0
    assert status.slurm_arrays() == set()
