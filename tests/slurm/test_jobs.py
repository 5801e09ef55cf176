"""What the launcher makes of a job's files and of SLURM's answers, without a cluster."""

import os
import signal
import stat
import subprocess
import time

import pytest

from temporal_sae.errors import JobFailed, JobRefused
from temporal_sae.sweep import slurm_jobs, slurm_watch
from temporal_sae.sweep.slurm_jobs import EXIT_CODE, Outcome, SlurmJob
from temporal_sae.sweep.slurm_watch import Watch, arrays, reason_of_loss


@pytest.fixture
def job(tmp_path):
    return SlurmJob("12_3", tmp_path)


@pytest.fixture
def no_accounts(monkeypatch):
    monkeypatch.setattr(slurm_watch, "state_of_the_past", lambda number: "")


@pytest.mark.parametrize("error", [JobFailed("it broke"), JobRefused("trainer.lr=-1: must be")])
def test_a_job_tells_the_launcher_how_it_ended(job, error):
    assert job.outcome() is None
    Outcome.of_error(error).write(job.folder)
    told = job.outcome().error()
    assert type(told) is type(error)
    assert str(told) == str(error)
    Outcome(None, 0.5).write(job.folder)
    assert job.outcome() == Outcome(None, 0.5)


def test_the_most_telling_line_is_told(job):
    assert job.last_words() == ""
    log = job.folder / "12_3_0_log.err"
    log.write_text("a warning\n")
    assert job.last_words() == "a warning"
    log.write_text("a warning\nsrun: error: n1: task 0: Killed\nsrun: Force Terminated\n")
    assert job.last_words() == "srun: error: n1: task 0: Killed"
    log.write_text("ModuleNotFoundError: No module named 'x'\nsrun: error: task 0: Exited\n")
    assert job.last_words() == "ModuleNotFoundError: No module named 'x'"


@pytest.mark.parametrize(
    ("state", "code", "told"),
    [
        ("FAILED", 137, "killed by SIGKILL"),
        ("FAILED", 3, "exit code 3"),
        ("RUNNING", 139, "killed by SIGSEGV"),
        ("OUT_OF_MEMORY", 137, "OUT_OF_MEMORY"),
        ("TIMEOUT", None, "TIMEOUT"),
        ("COMPLETED", 0, "ended without a result"),
        ("", None, "ended without a result"),
    ],
)
@pytest.mark.usefixtures("no_accounts")
def test_why_a_job_is_lost(job, state, code, told):
    if code is not None:
        (job.folder / EXIT_CODE).write_text(f"{code}\n")
    assert reason_of_loss(job, state) == f"SLURM job 12_3: {told}"


def test_a_job_that_slurm_believes_to_run_is_not_believed_for_ever(job):
    """A controller that was killed may have forgotten the end of a job."""
    assert job.is_live("PENDING")
    assert job.is_live("PREEMPTED")
    assert not job.is_live("TIMEOUT")
    assert not job.is_live(None)
    assert job.is_live("RUNNING")
    ended = job.folder / EXIT_CODE
    ended.write_text("137\n")
    assert job.is_live("RUNNING")
    long_ago = time.time() - 2 * slurm_jobs.SECONDS_UNTIL_DISBELIEVED
    os.utime(ended, (long_ago, long_ago))
    assert not job.is_live("RUNNING")
    assert job.is_live("PENDING")  # queued again


def test_a_lost_job_does_not_keep_the_others_waiting(tmp_path, monkeypatch):
    answers = {"1_0": "RUNNING", "1_1": "FAILED"}
    for name, value in (
        ("ask_queue", lambda: answers),
        ("SECONDS_BETWEEN_QUESTIONS", 0),
        ("SECONDS_UNTIL_LOST", 0),
    ):
        monkeypatch.setattr(slurm_watch, name, value)
    jobs = [SlurmJob(number, tmp_path / number) for number in answers]
    for job in jobs:
        job.folder.mkdir()
    watch = Watch(jobs, lambda: None)
    assert watch.look()
    assert watch.outcomes["1_1"].reason == "SLURM job 1_1: FAILED"
    Outcome(None, 1.0).write(jobs[0].folder)
    assert not watch.look()
    assert watch.outcomes["1_0"] == Outcome(None, 1.0)


def test_silence_is_told_once_and_survived(job, monkeypatch):
    told = []
    monkeypatch.setattr(slurm_watch, "ask_queue", lambda: None)
    monkeypatch.setattr(slurm_watch, "SECONDS_BETWEEN_QUESTIONS", 0)
    monkeypatch.setattr(slurm_watch, "SECONDS_OF_SILENCE", 0)
    watch = Watch([job], lambda: told.append("silence"))
    assert watch.look()
    assert watch.look()
    assert told == ["silence"]


def test_the_queue_is_asked_once_for_all_jobs(tmp_path, monkeypatch):
    squeue = tmp_path / "squeue"
    squeue.write_text(
        f"#!/bin/sh\necho >> {tmp_path}/calls\nprintf '1_0|RUNNING\\n1_1|PENDING\\n'\n"
    )
    squeue.chmod(squeue.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    jobs = [SlurmJob(number, tmp_path) for number in ("1_0", "1_1", "1_2")]
    assert slurm_jobs.still_live(jobs) == set(jobs[:2])
    assert (tmp_path / "calls").read_text() == "\n"
    assert arrays(jobs) == ["1"]


@pytest.fixture
def requeue(request):
    """What a job does on SIGUSR2, whose handler runs a command that ends by this."""

    def handler(number, frame):
        subprocess.run(["sh", "-c", request.param], check=True)
        raise SystemExit("done")

    before = signal.signal(signal.SIGUSR2, handler)
    slurm_jobs.outlive_requeueing()
    yield lambda: signal.raise_signal(signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize(
    ("requeue", "error", "told"),
    [
        ("kill $$", SystemExit, "-1"),  # the end that the command asked for has come to it first
        ("true", SystemExit, "done"),
        ("exit 1", subprocess.CalledProcessError, "exit status 1"),
    ],
    indirect=["requeue"],
)
def test_a_job_is_queued_again_although_that_ends_the_command_for_it(requeue, error, told):
    with pytest.raises(error, match=told):
        requeue()


def test_without_a_handler_there_is_nothing_to_outlive():
    slurm_jobs.outlive_requeueing()
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
