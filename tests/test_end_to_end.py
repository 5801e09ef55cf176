"""Whole runs from the command line, as a person starts, kills and continues them."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

LONGER = (
    "model.hook_name=blocks.1.hook_resid_post",
    "activations.context_size=32",
    "activations.buffer_tokens=2048",
    "sae.d_sae=256",
    "sae.k=8",
    "trainer.num_tokens=51200",
    "trainer.batch_size=256",
    "trainer.checkpoint_every=7",
    "trainer.log_every=5",
    "trainer.dead_after_tokens=2000",
    "tracker.window_size=300",
    "eval=none",
)


def start(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def finish(*arguments):
    process = start(*arguments)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def sha256(folder):
    return hashlib.sha256(
        (Path(folder) / "sae" / "sae_weights.safetensors").read_bytes()
    ).hexdigest()


def wait_for_step(folder, step, process):
    """Until metrics.jsonl has a line of at least that step."""
    metrics = Path(folder) / "metrics.jsonl"
    while process.poll() is None:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if any(f'"step": {s},' in line for line in lines for s in range(step, step + 6)):
            return
        time.sleep(0.01)


@pytest.fixture(scope="module")
def options(random_gemma):
    return (f"model.name={random_gemma}", *LONGER)


@pytest.fixture(scope="module")
def undisturbed(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(*options, f"hydra.run.dir={folder}")
    return folder


def test_same_seed_same_weights(options, undisturbed, tmp_path):
    finish(*options, f"hydra.run.dir={tmp_path}/run")
    assert sha256(tmp_path / "run") == sha256(undisturbed)


def test_same_seed_same_weights_at_the_default_size(tmp_path):
    """Large enough for every operation to run on several threads."""
    for n in range(2):
        finish("trainer.num_tokens=40_000", "eval=none", f"hydra.run.dir={tmp_path}/{n}")
    assert sha256(tmp_path / "0") == sha256(tmp_path / "1")


@pytest.mark.parametrize("stream", ["shuffled", "ordered"])
def test_killed_at_arbitrary_steps_and_continued(options, undisturbed, tmp_path, stream):
    options = (*options, f"tracker.stream={stream}")
    expected = undisturbed
    if stream == "ordered":
        expected = tmp_path / "whole"
        finish(*options, f"hydra.run.dir={expected}")
    folder, chance = tmp_path / "run", random.Random(stream)
    for after in sorted(chance.sample(range(5, 180, 5), 2)):
        process = start(*options, f"hydra.run.dir={folder}")
        wait_for_step(folder, after, process)
        process.kill()
        process.wait()
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    output = finish(*options, f"hydra.run.dir={folder}")
    assert "continuing at step" in output
    assert sha256(folder) == sha256(expected)
    steps = [
        json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(5, 201, 5))


def test_ctrl_c_saves_and_a_damaged_checkpoint_is_passed_over(options, undisturbed, tmp_path):
    folder = tmp_path / "run"
    process = start(*options, f"hydra.run.dir={folder}")
    wait_for_step(folder, 30, process)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "stopped at step" in output
    assert f"hydra.run.dir={folder}" in output
    assert json.loads((folder / "run.json").read_text())["status"] == "stopped"
    newest = max((folder / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    output = finish(*options, f"hydra.run.dir={folder}")
    assert f"{newest.name} is damaged" in output
    assert sha256(folder) == sha256(undisturbed)


def test_a_sweep_writes_a_folder_a_job(options, tmp_path):
    shorter = [o for o in options if "num_tokens" not in o and o != "eval=none"]
    finish(
        "-m",
        *shorter,
        "trainer.num_tokens=5120",
        "eval.n_sparsity_windows=8",
        "eval.n_reconstruction_windows=8",
        "tracker.window_size=500,1000,2000",
        "loss.ortho_weight=0,3",
        f"hydra.sweep.dir={tmp_path}/sweep",
    )
    folders = [p for p in (tmp_path / "sweep").iterdir() if p.is_dir()]
    assert len(folders) == 6
    seen = set()
    for folder in folders:
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "finished"
        assert "core evaluation results" in json.loads((folder / "results.json").read_text())
        seen.add(
            (record["config"]["tracker"]["window_size"], record["config"]["loss"]["ortho_weight"])
        )
    assert seen == {(w, o) for w in (500, 1000, 2000) for o in (0, 3)}


@pytest.mark.parametrize(
    "choice",
    [
        ["sae=standard"],
        ["tracker=transcript", "loss.gram=activations", "loss.reduction=mean"],
        ["loss=consecutive", "tracker.stream=ordered"],
        ["tracker=off"],
        ["loss.weighting=none", "loss.floor=1", "loss.ortho_weight=6"],
        ["logger=wandb"],
    ],
)
def test_every_choice_runs(options, tmp_path, choice):
    shorter = [o for o in options if not o.startswith("trainer.num_tokens")]
    shorter = [o for o in shorter if "sae=standard" not in choice or not o.startswith("sae.k")]
    if choice == ["tracker=off"] or "tracker=transcript" in choice:
        shorter = [o for o in shorter if not o.startswith("tracker.")]
    finish(*shorter, "trainer.num_tokens=5120", *choice, f"hydra.run.dir={tmp_path}/run")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["cost"]


def test_the_bundled_model_in_seconds(tmp_path):
    """A fifth of the default run (which CI does whole) already reconstructs well."""
    finish(
        "trainer.num_tokens=100_000",
        "eval.n_sparsity_windows=256",
        "eval.n_reconstruction_windows=64",
        f"hydra.run.dir={tmp_path}/run",
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    metrics = results["core evaluation results"]["metrics"]
    assert metrics["model_performance_preservation"]["ce_loss_score"] > 0.8
    assert metrics["reconstruction_quality"]["explained_variance"] > 0.6
    assert metrics["sparsity"]["l0"] == pytest.approx(32, abs=0.5)
