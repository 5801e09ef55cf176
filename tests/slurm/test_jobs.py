"""What the launcher tells SLURM and makes of its answers, without a cluster."""

import json
import os
import subprocess
import threading
import time

import pytest

from temporal_sae.errors import InvalidOption
from temporal_sae.sweep import slurm
from temporal_sae.sweep.slurm import SlurmLauncher, array_name, in_queue, why_lost
from temporal_sae.sweep.states import Outcome, State
from tests.sweep.folders import planned


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Puts programs of these names and contents first in PATH; each notes its calls in `calls`."""
    folder = tmp_path / "clients"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def put(**programs):
        for name, body in {"squeue": "", "srun": "", "scontrol": "", **programs}.items():
            path = folder / name
            path.write_text(f'#!/bin/bash\necho "{name} $*" >> {folder}/calls\n{body}\n')
            path.chmod(0o755)
        return lambda: (folder / "calls").read_text().splitlines()

    return put


@pytest.fixture
def sweep(tmp_path):
    return planned(tmp_path / "it's 100%", [{}, {}])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Looks and questions follow each other at once."""
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_QUESTIONS", 0)
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_LOOKS", 0.01)


def finish(sweep):
    """A command for a client that has all jobs done."""
    state = json.dumps({"attempts": 1, "step": 0, "outcome": {"reason": None, "refused": False}})
    return "\n".join(f"""echo '{state}' > "{sweep.work}/{n}.json" """ for n in (0, 1))


def submit(sweep):
    """The same, of workers that are taken at once."""
    return finish(sweep) + "\necho 17"


def test_an_array_is_submitted_once_and_noted(sweep, clients, capsys):
    calls = clients(scontrol="echo MaxArraySize = 1001", sbatch=submit(sweep))
    given = {"nodelist": "n2", "exclusive": True, "qos": None, "hold": False}
    launcher = SlurmLauncher(partition="gpu", mem_gb=3, additional_parameters=given, setup=["true"])
    assert launcher.work(sweep, [0, 1], []) == ""
    (line,) = [call for call in calls() if call.startswith("sbatch")]
    for option in (
        *("--array=0-1", "--partition=gpu", "--mem=3G", "--signal=USR2@120", "--time=240"),
        *("--requeue", "--nodelist=n2", "--exclusive ", "100%%/.sweep/worker_%a.log"),
        f"--job-name={array_name(sweep.path)}",
    ):
        assert option in line
    assert not {"--qos", "--account", "--hold"} & {word.partition("=")[0] for word in line.split()}
    assert sweep.read()["slurm_job"] == "17"
    assert "submitted 17" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "settled", "largest", "array"),
    [
        ({}, [], 2, "0-1"),
        ({}, [], 1, "0-0"),
        ({}, [0], 1001, "0-0"),
        ({"array_parallelism": 1}, [], 1001, "0-0"),
    ],
)
def test_no_more_workers_than_jobs_are_open_or_the_cluster_or_the_person_allows(
    sweep, clients, options, settled, largest, array
):
    largest = f"echo 'MaxArraySize            = {largest}'"
    calls = clients(scontrol=largest, sbatch=submit(sweep))
    for number in settled:
        sweep.states.write(number, State(outcome=Outcome("why")))
    SlurmLauncher(**options).work(sweep, [0, 1], [])
    assert any(f"--array={array} " in call for call in calls())


def test_workers_that_are_in_the_queue_are_waited_for(sweep, clients, capsys):
    """Also where the launcher was killed before it could note them."""
    clients(squeue=f"{finish(sweep)}\necho 9 RUNNING", sbatch="echo 17")
    SlurmLauncher().work(sweep, [0, 1], [])
    assert sweep.read()["slurm_job"] == "9"
    assert "in the queue or run already: 9" in capsys.readouterr().out


def test_jobs_that_workers_of_before_have_left_get_new_ones(sweep, clients, monkeypatch):
    monkeypatch.setattr(slurm, "SECONDS_UNTIL_GONE", 0)
    once = f'[ -e "{sweep.path}/asked" ] || echo 9 RUNNING; touch "{sweep.path}/asked"'
    calls = clients(squeue=once, sbatch=submit(sweep))
    SlurmLauncher().work(sweep, [0, 1], [])
    assert sum(call.startswith("sbatch") for call in calls()) == 1


def test_workers_that_slurm_believes_to_run_are_not_believed_for_ever(sweep, clients, monkeypatch):
    """A controller that was killed may have forgotten the end of a job."""
    monkeypatch.setattr(slurm, "SECONDS_UNTIL_DISBELIEVED", 0.2)
    alive = f'[ -e "{sweep.work}/late" ] || touch "{sweep.work}/worker_0.alive"'
    queue = f"{alive}\necho 9 RUNNING"
    calls = clients(squeue=queue, sbatch=submit(sweep), scancel="")
    threading.Timer(1, (sweep.work / "late").touch).start()
    began = time.monotonic()
    SlurmLauncher().work(sweep, [0, 1], [])
    assert time.monotonic() - began > 1
    assert "scancel 9" in calls()
    assert calls()[-1].startswith("sbatch")


@pytest.mark.parametrize(
    "option",
    [
        {"timeout_min": 0},
        {"signal_delay_s": 240 * 60},  # as long as the time that there is
        {"nodes": "two"},
        {"max_num_timeout": -1},
        {"array_parallelism": 0},
    ],
)
def test_options_that_make_no_sense(option):
    with pytest.raises(InvalidOption, match=rf"^hydra\.launcher\.{next(iter(option))}="):
        SlurmLauncher(**option)


def test_the_queue_is_asked_by_name_and_may_not_answer(clients):
    calls = clients(squeue="echo 12 RUNNING; echo 12 PENDING; echo 13 RUNNING")
    tasks = in_queue("mine-1")
    assert tasks == [("12", "RUNNING"), ("12", "PENDING"), ("13", "RUNNING")]
    assert slurm.arrays_of(tasks) == "12 13"
    assert "--name=mine-1" in calls()[0]
    clients(squeue="exit 1")
    assert in_queue("mine-1") is None


def test_sweeps_have_names_of_their_own_in_the_queue(tmp_path):
    names = {array_name(tmp_path / name) for name in ("a b", "a_b", "x/a b")}
    assert len(names) == 3
    assert all(" " not in name for name in names)


def test_why_jobs_were_left(sweep, clients):
    sweep.note("slurm_job", "12")
    (sweep.work / "worker_1.log").write_text("ModuleNotFoundError: No module named 'x'\n")
    clients(squeue="echo 11 0 FAILED; echo 12 0 COMPLETED; echo 12 1 TIMEOUT")
    told = "SLURM job 12_1: TIMEOUT: ModuleNotFoundError: No module named 'x'"
    assert why_lost(sweep) == told
    clients(squeue="exit 1")
    assert why_lost(sweep) == "SLURM job 12_0: its workers have ended"


@pytest.mark.parametrize(
    ("code", "limits", "seconds", "requeued", "expected"),
    [
        (0, 0, 0, False, 0),
        (1, 0, 0, False, 1),  # it could not begin
        (75, 0, 0, True, 75),  # preempted
        (137, 0, 0, True, 137),  # killed
        (75, 3, 0, True, 75),  # preempted after as many time limits as there may be
        (75, 2, 9999999, True, 75),
        (75, 3, 9999999, False, 1),  # one time limit too many
    ],
)
def test_what_a_worker_that_has_ended_means_for_its_place_in_the_queue(
    sweep, clients, code, limits, seconds, requeued, expected
):
    lives = f'until [ -e "{sweep.work}/worker_4.alive" ]; do sleep 0.01; done'
    calls = clients(srun=f"{lives}; exit {code}")
    (sweep.work / "worker_4.limits").write_text("\n" * limits)
    script = SlurmLauncher(max_num_timeout=3)._script(sweep, 2, ["a", "b"])
    variables = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "4", "SLURM_JOB_ID": "21"}
    done = subprocess.run(
        ["bash", "-c", script.replace("srun ", f"SECONDS={seconds}; srun ")],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expected, done.stderr
    assert ("scontrol requeue 17_4" in calls()) == requeued
    assert calls()[0].startswith("srun --kill-on-bad-exit=1 ")
    assert f"work {sweep.path} --workers 2 --plugins a,b --queued --place SLURM 21 on" in calls()[0]
    assert ("max_num_timeout=3" in done.stdout) == (expected == 1 and code == 75)
