"""What version 0.1.0 has written, before options were renamed, is still read by every command.

`old_layout/sweep` is one of its sweeps: a finished job and one that was stopped at step 21 of 50.
"""

import json
import shutil
from pathlib import Path

import pytest

from temporal_sae.eval.__main__ import evaluate
from temporal_sae.report import build_report
from temporal_sae.sae import load_sae
from temporal_sae.sweep.__main__ import main as sweep_status

OLD = Path(__file__).parent / "old_layout"
FINISHED, STOPPED = "sweep/0_trainer.num_tokens=640", "sweep/1_trainer.num_tokens=3200"
# The command of that sweep in today's words.
TODAY = (
    *("-m", "hydra.sweep.dir=sweep", "data=text_files", "data.path=text"),
    *("data.held_out_fraction=0.3", "activations.context_size=32", "activations.lm_batch_size=4"),
    *("activations.buffer_tokens=128", "sae.d_sae=32", "sae.k=4", "trainer.batch_size=64"),
    *("trainer.warmup_steps=2", "trainer.log_every=20", "trainer.checkpoint_every=5"),
    *("tracker.window_size=100", "eval.n_reconstruction_sequences=4"),
    *("eval.n_sparsity_sequences=4", "loss=orthogonality", "loss.weighting=instability_only"),
    *("loss.floor=0.5", "loss.ortho_weight=3", "trainer.num_tokens=640,3200"),
)


@pytest.fixture
def old(command):
    """The working directory of `command`, with the old sweep and its text in it."""
    shutil.copytree(OLD, ".", dirs_exist_ok=True)
    return command


def test_an_old_sweep_goes_on_in_todays_words(old, capsys):
    before = Path(FINISHED, "results.json").stat().st_mtime_ns
    code, out, err = old(*TODAY)
    assert (code, err) == (0, "")
    assert "continuing at step 21 of 50" in out
    assert Path(FINISHED, "results.json").stat().st_mtime_ns == before
    record = json.loads(Path(STOPPED, "run.json").read_text())
    assert record["status"] == "finished"
    assert record["config"]["loss"]["weighting"] == "instability_only"
    lines = Path(STOPPED, "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [20, 40, 50]
    sweep_status(["sweep"])
    assert "2 of 2 finished" in capsys.readouterr().out


def test_an_old_run_is_evaluated_and_reported(old):
    folder = Path(FINISHED)
    before = json.loads((folder / "results.json").read_text())
    small = ["eval.n_reconstruction_sequences=4", "eval.n_sparsity_sequences=8"]
    assert evaluate(folder, small) == {}
    results = json.loads((folder / "results.json").read_text())
    assert set(results) == set(before)
    assert results["core evaluation results"] != before["core evaluation results"]
    assert "CE score" in build_report(folder).read_text()
    assert load_sae(folder / "sae").d_sae == 32


def test_an_old_run_is_read_from_the_source_that_took_the_place_of_its_class(old, capsys):
    folder = Path(FINISHED)
    config = json.loads((folder / "run.json").read_text())["config"]["activations"]
    assert config["_target_"] == "temporal_sae.activations.ActivationSource"
    assert evaluate(folder, ["eval=activations", "eval.n_sequences=4"]) == {}
    assert "not the data" not in capsys.readouterr().out
    section = json.loads((folder / "results.json").read_text())["core evaluation results"]
    assert section["metrics"]["token_stats"] == {"total_tokens_eval_sparsity_variance": 4 * 31}


def test_old_words_are_answered_with_todays(old):
    for typed, message in (
        ("activations=default", "activations=default: is called activations=harvest now"),
        ("loss=separation", "loss=separation: is called loss=orthogonality now"),
        ("loss.weighting=only", "loss.weighting='only': must be instability_only, as it is called"),
        ("eval.batch_windows=3", "eval.batch_windows: is called eval.lm_batch_size now"),
        ("+eval.batch_windows=3", "eval.batch_windows: is called eval.lm_batch_size now"),
    ):
        code, _, err = old(typed, "hydra.run.dir=r")
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
