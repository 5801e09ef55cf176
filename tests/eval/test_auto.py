"""`eval=auto` and `eval=activations`: what a source allows, measured as by the core evaluation."""

import json
import logging

import pytest
import torch

from temporal_sae.activations import ActivationSource, Harvest, Rows
from temporal_sae.data import TextFiles
from temporal_sae.errors import RunError
from temporal_sae.eval import (
    ActivationsEvaluation,
    AutoEvaluation,
    CoreEvaluation,
    EvaluationFiles,
    Subject,
)
from temporal_sae.experiment.build import fitted
from temporal_sae.sae import StandardSAE, TopKSAE

SIZES = {"lm_batch_size": 4, "n_reconstruction_sequences": 6, "n_sparsity_sequences": 10}
CORE = "core evaluation results"


class Given(ActivationSource):
    """Held-out rows that the test gives, in sequences of 128."""

    name, dtype, device = "given", torch.float32, torch.device("cpu")

    def __init__(self, x):
        super().__init__()
        self.x, self.d_in = x, x.shape[1]

    def open(self):
        pass

    def reader(self, seed):
        raise AssertionError("an evaluation reads no training rows")

    def check(self, split):
        if not len(self.x):
            raise RunError(f"there are no {split} rows")

    def held_out(self, n_sequences, batch_sequences, seed=0):
        yield from Rows(self.x[: n_sequences * 128]).split(batch_sequences * 128)


@pytest.fixture
def harvest(small_model, text_folder):
    text = TextFiles(str(text_folder), held_out_fraction=0.5)
    return Harvest(context_size=16, model=small_model, text=text)


def axes_sae(d):
    """Latent i is component i of x where that is positive."""
    sae = StandardSAE(d, d)
    sae.W_enc.data, sae.W_dec.data = torch.eye(d), torch.eye(d)
    sae.b_enc.data.zero_()
    sae.b_dec.data.zero_()
    return sae


def run(evaluation, source, folder, sae=None):
    """Evaluate as an experiment does; returns the sections."""
    source.open()
    sae = TopKSAE(source.d_in, 32, k=4) if sae is None else sae
    files = EvaluationFiles(folder, {})
    outcome = fitted(evaluation, source).run(Subject(sae, folder, source, files))
    assert not outcome.failures
    return outcome.sections


def test_with_a_language_model_auto_is_core_to_the_byte(harvest, tmp_path):
    sae = TopKSAE(16, 32, k=4)
    for name, evaluation in (("auto", AutoEvaluation(**SIZES)), ("core", CoreEvaluation(**SIZES))):
        run(evaluation, harvest, tmp_path / name, sae)
    auto, core = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("auto", "core")
    )
    assert auto == core
    assert "core.json" in core


def test_rows_alone_are_measured_as_core_measures_them(harvest, tmp_path):
    sae = TopKSAE(16, 32, k=4)
    core = run(CoreEvaluation(**SIZES), harvest, tmp_path / "core", sae)[CORE]
    section = run(ActivationsEvaluation(10, 4), harvest, tmp_path / "rows", sae)[CORE]
    of_model = {"model_behavior_preservation", "model_performance_preservation", "token_stats"}
    for group in core["metrics"].keys() - of_model:
        assert section["metrics"][group] == core["metrics"][group]
    assert {"explained_variance", "l0"} <= section["intervals"].keys()
    assert section["intervals"].items() <= core["intervals"].items()


def test_without_a_language_model_auto_measures_rows_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "temporal_sae.eval.auto"):
        sections = run(AutoEvaluation(**SIZES), Given(torch.randn(3000, 16)), tmp_path)
    (said,) = (record.message for record in caplog.records)
    told = "these activations come without a language model"
    assert said == f"eval=auto leaves out eval=core: {told}"
    assert list(sections) == [CORE]
    assert sections[CORE]["metrics"]["token_stats"] == {
        "total_tokens_eval_sparsity_variance": 10 * 128
    }
    assert [file.name for file in tmp_path.glob("[!d]*")] == ["activations.json"]


def test_without_held_out_rows_auto_measures_nothing_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "temporal_sae.eval.auto"):
        assert run(AutoEvaluation(**SIZES), Given(torch.randn(0, 16)), tmp_path) == {}
    told = [record.message for record in caplog.records]
    assert told == [
        "eval=auto leaves out eval=core: these activations come without a language model",
        "eval=auto leaves out eval=activations: there are no held_out rows",
    ]


@pytest.mark.parametrize("evaluation", [CoreEvaluation(), ActivationsEvaluation()])
def test_what_is_asked_for_by_name_and_cannot_be_had_is_refused(evaluation):
    with pytest.raises(RunError, match=rf"^eval={evaluation.name} needs .*, and .*; ") as refused:
        fitted(evaluation, Given(torch.randn(0, 16)))
    assert "\n" not in str(refused.value)


def test_known_rows_by_hand(tmp_path):
    """Of x = ±e_i the latents of the axes keep the positive half; one axis is never seen."""
    torch.manual_seed(0)
    n, d = 128 * 40, 8
    axis, sign = torch.randint(d - 1, (n,)), torch.randint(2, (n,)) * 2.0 - 1
    x = torch.zeros(n, d)
    x[torch.arange(n), axis] = sign
    section = run(ActivationsEvaluation(40, 8), Given(x), tmp_path, axes_sae(d))[CORE]
    metrics = section["metrics"]
    assert metrics["sparsity"]["l0"] == pytest.approx(float((sign > 0).float().mean()))
    assert metrics["misc_metrics"]["dead_share"] == 1 / d
    unexplained = float((sign < 0).float().mean())
    expected = 1 - unexplained / float((x - x.mean(0)).square().sum(1).mean())
    found = metrics["reconstruction_quality"]["explained_variance"]
    assert found == pytest.approx(expected, abs=1e-5)


def pairs_of(x, folder, **options):
    evaluation = ActivationsEvaluation(len(x) // 128, 8, **options)
    return run(evaluation, Given(x), folder, axes_sae(x.shape[1]))[CORE]["metrics"][
        "held_out_pairs"
    ]


def test_pairs_of_independent_rows_are_as_stable_as_chance(tmp_path):
    """Whatever the order, counts of a window vary as Poisson's do: variance over mean is near 1."""
    fires = (torch.rand(128 * 400, 12) < 0.1).float()
    pairs = pairs_of(fires, tmp_path, window_size=512)
    assert pairs["fano_factor_median"] == pytest.approx(1, abs=0.15)
    assert pairs["pairs_beyond_3_sigma"] < 0.05


def test_pairs_that_come_in_stretches_vary_more(tmp_path):
    """All latents fire three times as often in every other stretch of two windows."""
    stretch = (torch.arange(128 * 400) // 1024 % 2).float()[:, None]
    fires = (torch.rand(128 * 400, 12) < 0.05 + 0.1 * stretch).float()
    pairs = pairs_of(fires, tmp_path, window_size=512)
    assert pairs["fano_factor_median"] > 2


def test_too_few_rows_for_a_window_say_nothing_of_pairs(tmp_path):
    assert pairs_of(torch.rand(256, 4), tmp_path, window_size=1000) == {}


def test_the_written_file_is_found_again_by_its_options(tmp_path):
    source, sae = Given(torch.randn(2000, 16)), TopKSAE(16, 32, k=4)
    first = run(ActivationsEvaluation(8, 4), source, tmp_path, sae)
    assert json.loads((tmp_path / "activations.json").read_text())["eval_cfg"]["n_sequences"] == 8
    source.held_out = None  # nothing is measured again
    again = run(ActivationsEvaluation(8, 4), source, tmp_path, sae)
    assert json.dumps(again) == json.dumps(first)
