"""What a cluster does to sweeps, and what comes of them.

All sweeps are begun together and looked at one after the other, since most of the time they wait.
"""

import json
import math
import os
import re
import signal

import pytest
import torch

from temporal_sae.training.checkpoint import Checkpoints
from tests.slurm.cluster import CPUS_PER_NODE, wait_until
from tests.slurm.sweep import LONGEST, NODE, plain_run, weights
from tests.training.test_checkpoint import equal

pytestmark = pytest.mark.slow

# No checkpoint of its own accord: what is continued is what a signal has saved. It does not end
# while a launcher starts, which takes seconds.
LONG = ("trainer.num_tokens=640_000", "trainer.checkpoint_every=100_000")


@pytest.fixture(scope="module")
def failing(begin, options):
    """Jobs that fail in several ways, beside two that do not; see `misbehaving`."""
    logger = ("plugins=[misbehaving]", "logger.jsonl._target_=misbehaving.Misbehaving")
    one_gpu = "hydra.launcher.gpus_per_node=1"
    return begin("failing", *options, "seed=1,2,3,4,5", one_gpu, f"{NODE}=alpha", *logger)


@pytest.fixture(scope="module")
def interrupted(begin, options):
    """A longer run that has all of a node."""
    whole_node = (f"hydra.launcher.cpus_per_task={CPUS_PER_NODE}", f"{NODE}=beta")
    return begin("interrupted", *options, *LONG, *whole_node)


@pytest.fixture(scope="module")
def undisturbed(options, tmp_path_factory):
    """The longer run without a cluster, and its folder."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    process = plain_run(*options, *LONG, f"hydra.run.dir={folder}")
    yield process, folder
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def all_of_them(failing, interrupted, six, undisturbed):
    """Begins what the tests below look at."""


@pytest.mark.usefixtures("all_of_them")
def test_a_job_that_is_moved_about_ends_as_if_undisturbed(cluster, interrupted, undisturbed):
    """Preempted, its launcher interrupted, requeued by hand, and warned of its time limit."""
    interrupted.wait_for_step(100)
    job = interrupted.slurm_job()
    # First as clusters do that send no signal of the job's own. Who ends by it is not requeued.
    (process,) = interrupted.tasks()
    os.kill(process, signal.SIGTERM)
    checkpoints = interrupted.job_folder() / "checkpoints"
    interrupted.wait_for(lambda: list(checkpoints.glob("step_*")), "the checkpoint")
    go_on(interrupted)
    assert interrupted.tasks() == [process]

    urgent = ("--partition=urgent", "--nodelist=beta", f"--cpus-per-task={CPUS_PER_NODE}")
    cluster.ask("sbatch", *urgent, "--output=/dev/null", "--wrap=sleep 1")
    wait_until(lambda: cluster.queue().get(job) == "PENDING", "the preemption")
    record = interrupted.record()
    assert record["status"] == "stopped"
    assert re.fullmatch(r"preempted at step \d+: queued again", record["reason"])

    assert interrupted.interrupt() == 130, interrupted.output
    assert f"scancel {job.split('_')[0]}" in interrupted.output
    assert f"-m temporal_sae.sweep {interrupted.folder} --watch" in interrupted.output
    assert f"hydra.sweep.dir={interrupted.folder}" in interrupted.output
    assert job in cluster.queue()
    assert not list(interrupted.folder.rglob(".unfinished-*"))

    interrupted.start()
    go_on(interrupted)
    assert cluster.ask("scontrol", "requeue", job).returncode == 0
    wait_until(lambda: cluster.queue().get(job) == "PENDING", "the requeue")
    go_on(interrupted)
    cluster.ask("scancel", "--signal=USR2", job)  # as a time limit would, but at once
    assert interrupted.finish() == 0, interrupted.output
    assert interrupted.slurm_job() == job
    steps = [int(step) for step in re.findall(r"continuing at step (\d+)", interrupted.log())]
    assert len(steps) == 3
    assert steps == sorted(set(steps))
    assert undisturbed[0].wait(LONGEST) == 0
    assert weights(interrupted.job_folder()) == weights(undisturbed[1])


def go_on(sweep):
    """Wait until the job has made some way from where it was."""
    sweep.wait_for_step(sweep.step() + 100)


@pytest.mark.usefixtures("all_of_them")
def test_six_runs_have_a_folder_and_complete_results_each(six):
    assert six.finish() == 0, six.output
    seen = set()
    for job in six.jobs:
        folder = six.folder / job["folder"]
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "finished"
        seen.add((record["config"]["tracker"]["window_size"], record["seed"]))
        assert "core evaluation results" in json.loads((folder / "results.json").read_text())
    assert seen == {(window, seed) for window in (300, 500) for seed in (1, 2, 3)}
    assert len({weights(six.folder / job["folder"]) for job in six.jobs}) == 6
    assert six.output.count("submitted ") == 1
    assert len((six.folder / "sweep.csv").read_text().splitlines()) == 7


def test_two_processes_on_two_nodes_give_what_one_gives(begin, options, six):
    both = begin("both", *options, "tracker.window_size=300", "seed=1", "hydra.launcher.nodes=2")
    assert both.finish() == 0, both.output
    assert both.record()["processes"] == 2
    six.finish()
    same = {"tracker.window_size=300", "seed=1"}
    (number,) = (n for n, job in enumerate(six.jobs) if same <= set(job["overrides"]))
    folders = both.job_folder(), six.job_folder(number)
    ours, theirs = (Checkpoints(folder / "checkpoints").load_newest() for folder in folders)
    assert ours["step"] == theirs["step"] == 200
    for name, tensor in theirs["sae"].items():
        torch.testing.assert_close(ours["sae"][name], tensor, rtol=1e-3, atol=5e-4)
    assert equal(ours["tracker"], theirs["tracker"])
    assert math.isclose(ours["metrics"]["loss"], theirs["metrics"]["loss"], rel_tol=1e-3)


def test_failures_are_told_while_the_other_jobs_finish(failing):
    assert failing.finish() == 4, failing.output
    said = [line for line in failing.output.splitlines() if line.startswith("error: job ")]
    reasons = {int(line.split()[2]): line.partition("): ")[2] for line in said}
    assert reasons.keys() == {0, 1, 2}
    assert reasons[0] == "ValueError: a bug"
    assert reasons[1] == "ended without a word at step 0 (killed, or out of memory?)"
    assert re.match(r"SLURM job \d+_\d: TIMEOUT", reasons[2])
    assert [failing.record(n)["status"] for n in (3, 4)] == ["finished", "finished"]
    devices = [(failing.job_folder(n) / "device").read_text() for n in (3, 4)]
    assert len(set(devices)) == 2  # at the same time, of one node
    assert set(devices) <= {"0", "1", "2", "3"}
    for reason in reasons.values():
        assert reason in " ".join(failing.output.split())


def test_what_slurm_refuses_is_one_line_and_leaves_nothing(begin, options):
    sweep = begin("refused", *options, "seed=1,2", "hydra.launcher.partition=nowhere")
    assert sweep.finish() == 2
    last = sweep.output.splitlines()[-1]
    assert last.startswith("error: hydra/launcher=slurm: sbatch: error: ")
    assert "Invalid partition" in last
    assert not sweep.folder.exists()
