"""Components of another package, those of docs/plugins.md: from the command line to the report."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from temporal_sae import metrics, registry
from temporal_sae.errors import InvalidOption
from temporal_sae.eval.__main__ import evaluate
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.report import build_report
from temporal_sae.sae import StandardSAE, load_sae
from temporal_sae.tracker import CoActivationTracker, weightings
from tests.pages import files_of
from tests.test_cli import small

FILES = files_of("docs/plugins.md")
MODULES = [Path(name).stem for name in FILES if name.endswith(".py")]


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """What names them: modules that Python finds, and a YAML for some in a folder for Hydra."""
    before = dict(sys.modules)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for place in registry.PACKAGES:  # what is imported from now on is forgotten afterwards
        registry.components(place)
    known = {place: list(classes) for place, classes in registry._announced.items()}
    monkeypatch.setattr(registry, "_announced", known)
    monkeypatch.setattr(metrics, "_declared", list(metrics.declared()))
    monkeypatch.setattr(weightings, "_announced", dict(weightings.all_weightings()))
    yield f"plugins=[{','.join(MODULES)}]"
    for name in (sys.modules.keys() - before.keys()) & set(MODULES):
        del sys.modules[name]


def test_a_plugin_is_trained_saved_loaded_evaluated_and_reported(
    command, plugins, random_gemma, tmp_path
):
    run = tmp_path / "run"
    code, _, err = command(
        *(o for o in small(random_gemma) if not o.startswith("sae.k")),
        plugins,
        f"hydra.searchpath=[file://{tmp_path / 'conf'}]",
        *("sae=absolute", "loss=all_pairs", "logger=steps_alone"),
        *("sae.d_sae=64", "sae.floor=0.25", "loss.ortho_weight=0.5"),
        f"hydra.run.dir={run}",
    )
    assert code == 0, err
    assert (run / "steps.txt").read_text().split() == ["4", "8", "12", "16"]
    sae = load_sae(run / "sae")
    assert type(sae).__name__ == "AbsoluteSAE"
    assert sae.floor == 0.25
    assert bool((sae(torch.ones(3, 16)) != 0).any())
    trained = json.loads((run / "results.json").read_text())["training results for layer 1"]
    assert trained["config"]["dict_class"] == "AbsoluteSAE"
    (run / "eval" / "core.json").unlink()
    again = [plugins, "eval.n_reconstruction_sequences=4", "eval.n_sparsity_sequences=4"]
    assert evaluate(run, again) == {}
    assert (run / "eval" / "core.json").exists()
    assert "64 latents (AbsoluteSAE)" in build_report(run).read_text()


def test_a_source_is_trained_on_and_evaluated_without_a_language_model(command, plugins, tmp_path):
    options = (
        *(plugins, f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "activations=vectors"),
        *("activations.d_in=16", "activations.buffer_tokens=512", "sae.d_sae=64", "sae.k=4"),
        *("trainer.num_tokens=2048", "trainer.batch_size=128", "trainer.warmup_steps=2"),
        *("tracker.window_size=200", "eval.n_sparsity_sequences=4"),
    )
    code, out, err = command(*options, "hydra.run.dir=run")
    assert (code, err) == (0, "")
    assert "eval=auto leaves out eval=core: these activations come without a language model" in out
    record = json.loads(Path("run/run.json").read_text())
    assert not {"model", "data"} & set(record["config"])
    results = json.loads(Path("run/results.json").read_text())
    assert results["training results"]["config"]["activation_dim"] == 16
    metrics = results["core evaluation results"]["metrics"]
    assert metrics["token_stats"] == {"total_tokens_eval_sparsity_variance": 4 * 128}
    assert metrics["sparsity"]["l0"] == 4
    assert evaluate(Path("run"), [plugins, "eval=activations", "eval.n_sequences=8"]) == {}
    again = json.loads(Path("run/results.json").read_text())["core evaluation results"]
    assert again["metrics"]["token_stats"] == {"total_tokens_eval_sparsity_variance": 8 * 128}


@pytest.mark.parametrize("name", ["core", "tasks"])
def test_an_evaluation_that_a_source_does_not_allow_is_refused_before_training(
    command, plugins, tmp_path, name
):
    searchpath = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    typed = (plugins, searchpath, "activations=vectors", f"eval={name}", "hydra.run.dir=run")
    code, _, err = command(*typed)
    told = "a language model, and these activations come without a language model"
    assert (code, err) == (2, f"error: eval={name} needs {told}; eval=auto runs what there is\n")
    assert not Path("run").exists()


def test_a_weighting_and_a_measure_are_functions_of_one_file(command, plugins, random_gemma):
    options = (*small(random_gemma), plugins, "objective=largest_value", "hydra.run.dir=run")
    weights = ("loss.weighting=root", "loss.ortho_weight=30")
    code, out, err = command(*options, *weights)
    assert (code, err) == (0, "")
    assert "largest value" in out
    results = json.loads(Path("run/results.json").read_text())
    largest = results["core evaluation results"]["metrics"]["misc_metrics"]["largest_value"]
    assert largest > 0
    logged = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert logged[-1]["loss_orthogonality"] > 0


def test_root_weights_are_what_the_function_says(plugins):
    import_module("root")
    tracker = CoActivationTracker(3, window_size=4)
    tracker.update(torch.tensor([[0, 1], [0, 1], [0, 2], [1, -1]]))
    loss = OrthogonalityLoss(1.0, weighting="root", estimator="exact")
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    expected = (0.5**0.5 * 0.36) / (0.5**0.5 + 0.25**0.5)
    assert float(loss(rows, tracker)) == pytest.approx(expected)
    with pytest.raises(InvalidOption, match="estimator='sampled': must be exact"):
        OrthogonalityLoss(weighting="root", estimator="sampled")


def test_a_format_is_read_by_load_sae(plugins, tmp_path):
    import_module("matrices")
    rows = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    np.savez(tmp_path / "sae.npz", rows, rows.T.copy())
    sae = load_sae(tmp_path / "sae.npz")
    assert isinstance(sae, StandardSAE)
    assert np.array_equal(sae.W_enc.detach().numpy(), rows)


def test_an_sae_in_a_format_of_ones_own_is_evaluated(command, plugins, random_gemma, tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    rows = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
    np.savez(folder / "sae.npz", rows, rows.T.copy())
    kept = ("model.", "activations.context_size", "eval.")
    options = [option for option in small(random_gemma) if option.startswith(kept)]
    assert evaluate(folder, [*options, plugins]) == {}
    assert (folder / "eval" / "core.json").exists()
