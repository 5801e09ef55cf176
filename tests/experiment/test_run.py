"""A run and its folder: refused early, continued with as many threads, removed under its hands."""

import hashlib
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from temporal_sae.activations import LanguageModel
from temporal_sae.experiment import run as run_module
from temporal_sae.report import build_report
from temporal_sae.training.loggers import JsonlLogger

SMALL = (
    "model.hook_name=blocks.1.hook_resid_post",
    "activations.context_size=32",
    "activations.buffer_tokens=256",
    "sae.d_sae=32",
    "sae.k=4",
    "trainer.num_tokens=1024",
    "trainer.batch_size=64",
    "trainer.warmup_steps=1",
    "trainer.log_every=4",
    "eval=none",
    "hydra.run.dir=mine",
)
MINE = Path("mine")


@pytest.fixture
def run(command, random_gemma):
    """Runs a small command line; returns (exit code, stdout, stderr)."""
    return lambda *more: command(f"model.name={random_gemma}", *SMALL, *more)


@pytest.fixture
def at_step_8(monkeypatch):
    """Calls a function at step 8 of the next run, once."""

    def happens(function):
        def log(self, step, metrics):
            real(self, step, metrics)
            if step == 8:
                monkeypatch.setattr(JsonlLogger, "log", real)
                function()

        real = JsonlLogger.log
        monkeypatch.setattr(JsonlLogger, "log", log)

    return happens


@pytest.fixture
def threads():
    """Sets the number of torch's threads, until the test has ended."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def content(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def no_model(monkeypatch):
    """Loading the language model is a mistake from now on."""

    def load(*arguments, **options):
        raise AssertionError("the language model was loaded")

    return lambda: monkeypatch.setattr(LanguageModel, "__init__", load)


def test_a_folder_that_is_refused_is_refused_before_the_model_is_loaded(run, no_model):
    assert run()[0] == 0
    before = content(MINE)
    no_model()
    for more, message in (([], "holds a finished run"), (["seed=1"], "holds a finished run")):
        code, _, error = run(*more)
        assert code == 2
        assert message in error
        assert error.count("\n") == 1
    record = json.loads((MINE / "run.json").read_text())
    (MINE / "run.json").write_text(json.dumps({**record, "status": "stopped"}))
    assert "holds a run with other options" in run("seed=1")[2]
    (MINE / "run.json").write_bytes(before[MINE / "run.json"])
    assert content(MINE) == before


def test_a_refused_option_does_not_cost_the_run_that_was_to_be_overwritten(run):
    assert run()[0] == 0
    before = content(MINE)
    for wrong in ("sae.k=33", "model.hook_name=blocks.9.hook_resid_post", "data.path=nowhere"):
        code, _, error = run("overwrite=true", *["data=text_files"] * ("data" in wrong), wrong)
        assert code == 2
        assert error.count("\n") == 1
        assert content(MINE) == before


def test_a_wrong_model_leaves_no_folder(run):
    assert run("model.hook_name=blocks.9.hook_resid_post")[0] == 2
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("more", [[], ["trainer.checkpoint_every=9"]])
def test_a_folder_that_is_removed_while_it_is_used_is_not_made_again(run, at_step_8, more):
    at_step_8(lambda: shutil.rmtree(MINE))
    code, _, error = run(*more)
    assert code == 2
    assert error == "error: mine: the folder was removed while the run was going on\n"
    assert list(Path.cwd().iterdir()) == []


def test_a_run_goes_on_with_the_threads_it_began_with(run, at_step_8, threads):
    threads(3)
    at_step_8(lambda: signal.raise_signal(signal.SIGTERM))
    code, out, _ = run()
    assert code == 143
    assert json.loads((MINE / "run.json").read_text())["threads"] == 3
    threads(2)
    code, out, _ = run()
    assert code == 0
    assert "computing with 3 threads, as the run began, and not with 2" in out
    assert json.loads((MINE / "run.json").read_text())["threads"] == 3
    assert torch.get_num_threads() == 2
    code, out, _ = run("overwrite=true")
    assert "computing with" not in out
    assert json.loads((MINE / "run.json").read_text())["threads"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("before_the_first_checkpoint", [False, True])
def test_at_the_default_size_other_threads_give_the_same_bits(
    command, at_step_8, threads, before_the_first_checkpoint
):
    size = ("trainer.num_tokens=40960", "trainer.warmup_steps=5", "trainer.log_every=8")

    def weights(name):
        code = command(*size, "eval=none", f"hydra.run.dir={name}")[0]
        if code:
            return code
        path = Path(name) / "sae" / "sae_weights.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest()

    threads(2)
    whole = weights("whole")
    at_step_8(lambda: signal.raise_signal(signal.SIGTERM))
    assert weights("parts") == 143
    if before_the_first_checkpoint:
        shutil.rmtree("parts/checkpoints")
    threads(1)
    assert weights("alone") != whole
    assert weights("parts") == whole


def test_a_seed_may_be_typed_as_a_whole_number_with_an_exponent(run):
    code, _, err = run("seed=1e3")
    assert code == 0, err
    record = json.loads((MINE / "run.json").read_text())
    assert (record["seed"], record["config"]["loss"]["seed"]) == (1000, 1000)


@pytest.mark.parametrize("name", [".lock", "sae/cfg.json", ".hydra/config.yaml"])
def test_a_folder_where_a_file_belongs_is_one_line(run, name):
    (MINE / name).mkdir(parents=True)
    if name != ".lock":  # a folder that may be continued
        MINE.rename("other")
        assert run()[0] == 0
        record = json.loads((MINE / "run.json").read_text())
        (MINE / "run.json").write_text(json.dumps({**record, "status": "stopped"}))
        (MINE / name).unlink()
        (MINE / name).mkdir()
    code, _, err = run()
    assert code == 2
    assert err.startswith(f"error: {MINE.absolute() / name}: cannot be used (Is a directory)") or (
        err.startswith(f"error: {MINE / name}: cannot be used (Is a directory)")
    )
    assert err.count("\n") == 1


def test_a_line_of_metrics_without_an_end_is_left_out(run):
    assert run()[0] == 0
    record = json.loads((MINE / "run.json").read_text())
    (MINE / "run.json").write_text(json.dumps({**record, "status": "stopped"}))
    lines = (MINE / "metrics.jsonl").read_bytes()
    with (MINE / "metrics.jsonl").open("ab") as file:
        file.truncate(64 * 2**20)
    code, out, err = run()
    assert code == 0, err
    assert "64 broken lines are left out" in out + err
    assert (MINE / "metrics.jsonl").read_bytes() == lines


def test_a_run_has_finished_once_its_notes_are_written(run, monkeypatch):
    """A kill before that must not leave a finished run without them."""

    def build(folder):
        there = json.loads((folder / "run.json").read_text())
        seen.append((there["status"], there["objective"]))
        return build_report(folder)

    seen = []
    monkeypatch.setattr(run_module, "build_report", build)
    assert run()[0] == 0
    record = json.loads((MINE / "run.json").read_text())
    assert record["status"] == "finished"
    assert seen == [("running", record["objective"])]


def test_a_penalty_without_a_tracker_is_recorded_as_none(run):
    assert run("tracker=off")[0] == 0
    results = json.loads((MINE / "results.json").read_text())
    assert results["training results for layer 1"]["config"]["ortho_weight"] == 0
