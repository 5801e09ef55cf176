"""Whole runs from the command line, as a person starts, kills and continues them."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.forks import Fork

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
    """The command as a person gives it; seconds go by before its first line."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*arguments, begin=Fork):
    process = begin(*arguments)
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
    finish(*options, f"hydra.run.dir={tmp_path}/run", begin=start)
    assert sha256(tmp_path / "run") == sha256(undisturbed)


def test_same_seed_same_weights_at_the_default_size(tmp_path):
    """Large enough for every operation to run on several threads."""
    on_two = partial(Fork, threads=2)
    for n in range(2):
        where = f"hydra.run.dir={tmp_path}/{n}"
        finish("trainer.num_tokens=40_000", "eval=none", where, begin=on_two)
        assert json.loads((tmp_path / f"{n}" / "run.json").read_text())["threads"] == 2
    assert sha256(tmp_path / "0") == sha256(tmp_path / "1")


KILLED = {
    "topk": ("sae.k=8",),
    "topk, tokens in order": ("sae.k=8", "tracker.stream=ordered"),
    "batch_topk": ("sae.k=8",),
    "matryoshka": ("sae.k=8",),
    "lista": ("sae.k=8", "sae.learn_step_size=true"),
    "standard": ("sae.resample_every=10", "sae.l1_warmup_steps=20", "sae.l1_weight=0.1"),
    "jumprelu": ("sae.l0_target=8", "sae.initial_threshold=0.1", "sae.bandwidth=0.1"),
    "gated": ("sae.l1_warmup_steps=20", "sae.l1_weight=0.1"),
}
QUICK = (
    "model.hook_name=blocks.1.hook_resid_post",
    "activations.context_size=32",
    "activations.buffer_tokens=1024",
    "sae.d_sae=256",
    "trainer.num_tokens=15360",
    "trainer.batch_size=128",
    "trainer.lr=0.003",
    "trainer.warmup_steps=5",
    "trainer.checkpoint_every=4",
    "trainer.log_every=3",
    "trainer.dead_after_tokens=500",
    "tracker.window_size=300",
    "eval=none",
)


def wait_for_line(path, n, process):
    """Until that many lines are written, or the process has ended."""
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= n:
            return
        time.sleep(0.001)


@pytest.mark.parametrize("name", KILLED)
def test_any_architecture_killed_three_times_and_continued(name, random_gemma, tmp_path):
    """120 steps, a line every 3 and a checkpoint every 4; the kills come in between or within."""
    architecture = name.split(",")[0]
    options = (f"model.name={random_gemma}", *QUICK, f"sae={architecture}", *KILLED[name])
    whole, folder = tmp_path / "whole", tmp_path / "run"
    finish(*options, f"hydra.run.dir={whole}")
    chance = random.Random(name)
    for line in sorted(chance.sample(range(1, 37), 3)):
        process = Fork(*options, f"hydra.run.dir={folder}")
        wait_for_line(folder / "metrics.jsonl", line, process)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        assert process.wait(60) == -signal.SIGKILL, process.communicate()
        assert json.loads((folder / "run.json").read_text())["status"] == "running"
    output = finish(*options, f"hydra.run.dir={folder}")
    assert "continuing at step" in output
    assert sha256(folder) == sha256(whole)
    ours, theirs = (metrics_without_seconds(each) for each in (folder, whole))
    assert ours == theirs
    assert [line["step"] for line in ours] == list(range(3, 121, 3))
    dying = architecture != "jumprelu"
    assert not dying or max(line["dead_share"] for line in ours) > 0


def metrics_without_seconds(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


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
    output = finish(*options, f"hydra.run.dir={folder}", begin=start)
    assert f"{newest.name} is damaged" in output
    assert sha256(folder) == sha256(undisturbed)


def test_a_sweep_writes_a_folder_a_job(options, tmp_path):
    shorter = [o for o in options if "num_tokens" not in o and o != "eval=none"]
    finish(
        "-m",
        *shorter,
        "trainer.num_tokens=5120",
        "eval.n_sparsity_sequences=8",
        "eval.n_reconstruction_sequences=8",
        "tracker.window_size=500,1000,2000",
        "loss.ortho_weight=0,3",
        f"hydra.sweep.dir={tmp_path}/sweep",
    )
    folders = [p.parent for p in (tmp_path / "sweep").glob("*/run.json")]
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
        ["sae=batch_topk", "trainer.precision=bfloat16"],
        ["sae=matryoshka", "loss=ortsae"],
        ["sae=gated", "trainer.step=dense"],
        ["sae=jumprelu", "trainer.step=sparse"],
        ["sae=batch_topk", "trainer.encoder=screened", "trainer.gradients=rows"],
        ["tracker=transcript", "loss.gram=activations", "loss.reduction=mean"],
        ["loss=consecutive", "tracker.stream=ordered"],
        ["tracker=off"],
        ["loss.weighting=co_activation", "loss.floor=1", "loss.ortho_weight=6"],
        ["logger=[tensorboard,wandb]"],
    ],
)
def test_every_choice_runs(options, tmp_path, choice):
    shorter = [o for o in options if not o.startswith("trainer.num_tokens")]
    if choice[0] in ("sae=standard", "sae=gated", "sae=jumprelu"):
        shorter = [o for o in shorter if not o.startswith("sae.k")]
    if choice == ["tracker=off"] or "tracker=transcript" in choice:
        shorter = [o for o in shorter if not o.startswith("tracker.")]
    finish(*shorter, "trainer.num_tokens=5120", *choice, f"hydra.run.dir={tmp_path}/run")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["cost"]


def test_the_bundled_model_in_seconds(tmp_path):
    """A fifth of the default run (which CI does whole) already reconstructs well."""
    finish(
        "trainer.num_tokens=100_000",
        "eval.n_sparsity_sequences=256",
        "eval.n_reconstruction_sequences=64",
        f"hydra.run.dir={tmp_path}/run",
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    metrics = results["core evaluation results"]["metrics"]
    assert metrics["model_performance_preservation"]["ce_loss_score"] > 0.8
    assert metrics["reconstruction_quality"]["explained_variance"] > 0.6
    assert metrics["sparsity"]["l0"] == pytest.approx(32, abs=0.5)


def test_a_first_run_says_that_it_compiles_and_does_not_count_it(options, tmp_path, monkeypatch):
    """With numba's cache empty; the second run finds it filled."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    said, seconds = [], []
    for name in ("first", "second"):
        where = f"hydra.run.dir={tmp_path / name}"
        output = finish(*options, "trainer.num_tokens=7680", where, begin=start)
        record = json.loads((tmp_path / name / "run.json").read_text())
        said.append(output.count("compiling kernels (once"))
        seconds.append((record["wall_seconds"], record["training_seconds"]))
    assert said == [1, 0]
    compiling = seconds[0][0] - seconds[1][0]
    assert seconds[0][1] - seconds[1][1] < 0.3 * compiling
