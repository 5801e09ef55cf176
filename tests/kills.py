"""Sweeps in which something is killed all the time."""

import json
import os
import random
import signal
import time
from contextlib import suppress

from temporal_sae.files import TEMPORARY
from tests.slurm.sweep import LONGEST, weights

SECONDS = ("second", "method_share")


def bombard(sweep, victims, others, seed=20):
    """Kill so many of something by chance; the sweep's command is given again where it has ended.

    Args:
        sweep: it has begun.
        victims: "worker", "job in training", "launcher", or names of `others`.
        others: functions of a `random.Random` that kill something else.
        seed: of the chance.

    Returns:
        How many processes of workers were killed.
    """
    chance, killed = random.Random(seed), 0
    for victim in chance.sample(victims, len(victims)):
        time.sleep(chance.uniform(0.2, 2))
        if victim in others:
            others[victim](chance)
        elif victim != "launcher" and kill_a_worker(sweep, victim, chance):
            killed += 1
        else:
            sweep.kill()
            sweep.start()
    return killed


def kill_a_worker(sweep, which, chance):
    """SIGKILL to the process of a worker, waiting for one; returns False if all jobs are done."""
    end_of_patience = time.monotonic() + LONGEST
    steps: dict[int, int] = {}
    while not (found := that_train(sweep, steps) if which != "worker" else sweep.workers()):
        assert time.monotonic() < end_of_patience, sweep.output
        if sweep.process.poll() == 0:
            return False
        if sweep.process.poll() is not None:
            sweep.start()
        time.sleep(0.1)
    with suppress(ProcessLookupError):
        os.kill(chance.choice(found), signal.SIGKILL)
    return True


def that_train(sweep, steps):
    """The workers with jobs that have logged a step since the last look, which `steps` holds."""
    found = []
    for number in range(len(sweep.jobs)):
        step = sweep.step(number)
        found += sweep.tasks(number) if step > steps.get(number, step) else []
        steps[number] = step
    return found


def assert_as_undisturbed(sweep, undisturbed):
    """Every job is to the bit what it is in a sweep with the same jobs, and all is tidy."""
    theirs = {frozenset(j["overrides"]): undisturbed.folder / j["folder"] for j in undisturbed.jobs}
    assert len(sweep.jobs) == len(theirs)
    for job in sweep.jobs:
        ours, same = sweep.folder / job["folder"], theirs[frozenset(job["overrides"])]
        assert json.loads((ours / "run.json").read_text())["status"] == "finished"
        assert weights(ours) == weights(same)
        assert metrics(ours) == metrics(same)
        assert results(ours) == results(same)
    assert not list(sweep.folder.rglob(f"{TEMPORARY}*"))


def metrics(folder):
    """The logged metrics, less what depends on the machine's mood."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [without_seconds(json.loads(line)) for line in lines]


def results(folder):
    """The text of results.json, less what depends on the machine's mood."""
    return json.dumps(without_seconds(json.loads((folder / "results.json").read_text())))


def without_seconds(value):
    """The value without all that is measured in seconds."""
    if not isinstance(value, dict):
        return value
    kept = {k: v for k, v in value.items() if not any(word in k for word in SECONDS)}
    return {key: without_seconds(item) for key, item in kept.items()}
