"""A sweep in which something is killed all the time."""

import json
import os
import random
import signal
import time
from contextlib import suppress

import pytest

from tests.slurm.sweep import LONGEST, Sweep, weights

pytestmark = pytest.mark.slow
VICTIMS = [*["job"] * 5, *["job in training"] * 7, *["launcher"] * 4, *["controller"] * 4]


@pytest.fixture
def sweep(own_cluster, options_of_six, tmp_path):
    """Six runs on both nodes of that cluster."""
    sweep = Sweep(own_cluster, tmp_path / "sweep", *options_of_six)
    sweep.start()
    yield sweep
    sweep.kill()


def test_twenty_random_kills_and_one_repeat_give_what_an_undisturbed_sweep_gives(
    own_cluster, sweep, six
):
    """Jobs, the launcher (whose command is then given again) and the controller, by chance."""
    chance = random.Random(len(VICTIMS))
    for victim in chance.sample(VICTIMS, len(VICTIMS)):
        time.sleep(chance.uniform(0.2, 2))
        if victim == "controller":
            own_cluster.kill_controller()
            time.sleep(chance.uniform(0.2, 1))
            own_cluster.start_controller()
        elif victim == "launcher" or not kill_a_job(sweep, victim, chance):
            sweep.kill()
            sweep.start()
    sweep.finish()
    sweep.start()
    assert sweep.finish() == 0, sweep.output
    assert six.process.wait(LONGEST) == 0, six.output
    theirs = {frozenset(job["overrides"]): six.folder / job["folder"] for job in six.jobs}
    assert len(sweep.jobs) == 6
    for job in sweep.jobs:
        ours, same = sweep.folder / job["folder"], theirs[frozenset(job["overrides"])]
        assert json.loads((ours / "run.json").read_text())["status"] == "finished"
        assert weights(ours) == weights(same)
        assert without_seconds(ours) == without_seconds(same)
    assert not list(sweep.folder.rglob(".unfinished-*"))


def kill_a_job(sweep, which, chance):
    """SIGKILL to the process of a job, waiting for one; returns False if all jobs are done."""
    end_of_patience = time.monotonic() + LONGEST
    steps: dict[int, int] = {}
    while not (tasks := tasks_that_train(sweep, steps) if which != "job" else all_tasks(sweep)):
        assert time.monotonic() < end_of_patience, sweep.output
        if sweep.process.poll() == 0:
            return False
        if sweep.process.poll() is not None:
            sweep.start()
        time.sleep(0.1)
    with suppress(ProcessLookupError):
        os.kill(chance.choice(tasks), signal.SIGKILL)
    return True


def all_tasks(sweep):
    """The processes of all jobs, most of which are starting up."""
    return sweep.cluster.tasks_of()


def tasks_that_train(sweep, steps):
    """The processes of jobs that have logged a step since the last look, which `steps` holds."""
    found = []
    for number in range(len(sweep.jobs)):
        step = sweep.step(number)
        found += sweep.tasks(number) if step > steps.get(number, step) else []
        steps[number] = step
    return found


def without_seconds(folder):
    """The logged metrics, less what depends on the machine's mood."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]
