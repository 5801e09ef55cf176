"""Whole runs of two processes from the command line, as torchrun or a launcher starts them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.forks import Fork

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
OPTIONS = (
    "model.hook_name=blocks.1.hook_resid_post",
    "activations.context_size=32",
    "activations.buffer_tokens=2048",
    "sae.d_sae=256",
    "sae.k=8",
    "trainer.num_tokens=12800",
    "trainer.batch_size=256",
    "trainer.warmup_steps=10",
    "trainer.checkpoint_every=20",
    "trainer.log_every=5",
    "tracker.window_size=300",
)
LONG = "trainer.num_tokens=5_000_000"


@pytest.fixture
def options(random_gemma):
    return (f"model.name={random_gemma}", *OPTIONS)


def start_two(folder, *arguments):
    """Both processes, each on one core, with what torchrun tells them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    ranks = [{"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"} for rank in range(2)]
    return [Fork(*arguments, folder=folder, threads=1, environment=shared | rank) for rank in ranks]


def start_one(folder, *arguments):
    return Fork(*arguments, folder=folder, threads=1)


def start_by_torchrun(folder, *arguments):
    """Two processes as a person starts them."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    return subprocess.Popen(
        [sys.executable, *torchrun, str(ROOT / "launch.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
    )


def finish(*group):
    """Exit codes, and all that was said."""
    try:
        said = [process.communicate(timeout=200)[0] for process in group]
    finally:
        for process in group:
            process.kill()
    return [process.returncode for process in group], said


def record(folder):
    return json.loads((folder / "run.json").read_text())


def wait_for_a_step(folder, *group):
    while all(process.poll() is None for process in group):
        if '"step"' in (folder.read_text() if folder.exists() else ""):
            return
        time.sleep(0.05)


def differ(a, b):
    ours, theirs = (load_file(folder / "sae" / "sae_weights.safetensors") for folder in (a, b))
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


def test_torchrun_gives_one_run_with_the_results_of_one_process(options, tmp_path):
    """Each process has its own idea of the folder; the first one's counts, and no other is left."""
    options = (
        *options,
        "eval=core",
        "eval.n_reconstruction_sequences=8",
        "eval.n_sparsity_sequences=8",
    )
    by_time = "hydra.run.dir=outputs/${now:%H-%M-%S-%f}"
    (code,), (said,) = finish(start_by_torchrun(tmp_path, *options, by_time))
    assert code == 0, said
    (folder,) = (tmp_path / "outputs").iterdir()
    assert said.count("written to") == 1
    assert said.count("memory (MiB)") == 1
    assert record(folder)["processes"] == 2
    (code,), (said,) = finish(start_one(tmp_path, *options, "hydra.run.dir=alone"))
    assert code == 0, said
    assert record(tmp_path / "alone")["processes"] == 1
    assert differ(folder, tmp_path / "alone") < 1e-4
    ours, theirs = (sorted(p.name for p in f.iterdir()) for f in (folder, tmp_path / "alone"))
    assert ours == theirs


def test_a_signal_to_one_process_stops_both_and_one_goes_on(options, tmp_path):
    options = (*options, "trainer.num_tokens=102400", "trainer.checkpoint_every=100000")
    options = (*options, "eval=none", "hydra.run.dir=run")
    group = start_two(tmp_path, *options)
    wait_for_a_step(tmp_path / "run" / "metrics.jsonl", *group)
    group[1].send_signal(signal.SIGINT)
    codes, said = finish(*group)
    assert codes == [130, 130], said
    assert record(tmp_path / "run")["status"] == "stopped"
    assert re.search("to continue: .*python.* .*launch.py ", said[0])
    assert said[1] == ""
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    (code,), (said,) = finish(start_one(tmp_path, *options))
    assert code == 0, said
    assert "continuing at step" in said
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(5, 401, 5))


def test_a_mistake_is_told_once(options, tmp_path):
    """By the first process, while both have the same exit code and neither leaves a folder."""
    options = (*options, "eval=none", "hydra.run.dir=run")
    codes, said = finish(*start_two(tmp_path, *options, "trainer.batch_size=257"))
    assert codes == [2, 2], said
    asked = "must be a multiple of 2, the number of processes"
    assert said == [f"error: trainer.batch_size=257: {asked}\n", ""]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.md").write_text("mine")
    codes, said = finish(*start_two(tmp_path, *options))
    assert codes == [2, 2], said
    assert "run: holds notes.md but no run.json of a run" in said[0]
    assert "error" not in said[1]


def test_a_killed_process_is_reported_and_the_command_repeated(options, tmp_path):
    options = (*options, "eval=none", "hydra.run.dir=run")
    group = start_two(tmp_path, *options, LONG)
    wait_for_a_step(tmp_path / "run" / "metrics.jsonl", *group)
    group[1].kill()
    began = time.monotonic()
    codes, said = finish(*group)
    assert codes == [2, -signal.SIGKILL]
    assert time.monotonic() - began < 20
    assert "error: another process of the run has ended (" in said[0]
    assert record(tmp_path / "run")["status"] == "failed"
    codes, said = finish(*start_two(tmp_path, *options, "overwrite=true"))
    assert codes == [0, 0], said
    assert record(tmp_path / "run")["status"] == "finished"
