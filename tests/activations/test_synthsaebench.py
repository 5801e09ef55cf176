"""The benchmark's synthetic model through SAELens, at a size of a second."""

import sys

import pytest
import torch

from temporal_sae.activations import SynthSAEBenchActivations
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval.ground_truth import GroundTruthEvaluation
from temporal_sae.sae import TopKSAE

SMALL = {"n_features": 400, "d_in": 16, "n_roots": 4, "orthogonal_steps": 2}


@pytest.fixture(scope="module")
def source():
    pytest.importorskip("sae_lens")
    source = SynthSAEBenchActivations(**SMALL)
    source.open()
    return source


def test_the_truth_is_that_of_the_model(source):
    truth = source.truth
    assert torch.allclose(truth.directions.norm(dim=-1), torch.ones(400), atol=1e-5)
    assert truth.parent_of[:4].tolist() == [-1] * 4
    assert truth.parent_of[4:20].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert int((truth.parent_of >= 0).sum()) == 4 * (4 + 16 + 64)
    _, n_children = truth.parent_of[truth.parent_of >= 0].unique(return_counts=True)
    assert set(n_children.tolist()) == {4}
    assert len(truth.true_pairs) == len(truth.spurious_pairs) == 0


def test_rows_are_sums_of_directions_and_children_fire_with_their_parents(source):
    rows, features = source.block("train", 0, 3)
    again, _ = source.block("train", 0, 3)
    assert torch.equal(rows.x, again.x)
    values = features.to_dense(400)
    bias = rows.x - values @ source.truth.directions
    assert torch.allclose(bias, bias[:1].expand_as(bias), atol=1e-4)
    assert float(bias[0].norm()) == pytest.approx(0.5, abs=1e-3)
    fires = values > 0
    child = (source.truth.parent_of >= 0).nonzero()[:, 0]
    assert not (fires[:, child] & ~fires[:, source.truth.parent_of[child]]).any()
    first_family = (source.truth.parent_of == 0).nonzero()[:, 0]
    assert fires[:, first_family].sum(-1).max() == 1  # at most one child fires


def test_its_numbers_leave_torchs_generator_alone(source):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    source.block("train", 0, 0)
    assert torch.equal(torch.rand(3), expected)


def test_sizes_and_seed_make_the_model(source):
    other = SynthSAEBenchActivations(**SMALL, seed=1)
    assert not torch.equal(other.block("train", 0, 3)[0].x, source.block("train", 0, 3)[0].x)
    assert not torch.equal(other.truth.directions, source.truth.directions)


def test_a_saved_model_is_read(source, tmp_path):
    source._model.save(tmp_path / "model")
    loaded = SynthSAEBenchActivations(name=str(tmp_path / "model"))
    loaded.open()
    assert loaded.d_in == 16
    assert torch.equal(loaded.truth.directions, source.truth.directions)
    assert torch.equal(loaded.truth.parent_of, source.truth.parent_of)


def test_a_folder_without_a_model_is_one_line(source, tmp_path):
    with pytest.raises(RunError, match=r"^activations\.name=\S+: no synthetic model .*json"):
        SynthSAEBenchActivations(name=str(tmp_path)).open()


def test_without_sae_lens_one_line_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(RunError, match=r"^activations=synthsaebench: needs SAELens \(pip install"):
        SynthSAEBenchActivations(**SMALL).open()


def test_options_are_judged_without_sae_lens():
    with pytest.raises(InvalidOption, match=r"^n_features=400: must be at least 425, for 5 trees"):
        SynthSAEBenchActivations(**{**SMALL, "n_roots": 5})
    with pytest.raises(InvalidOption, match=r"^name=''"):
        SynthSAEBenchActivations(name="")


def test_an_sae_of_the_true_directions_is_scored_by_the_evaluation(source):
    sae = TopKSAE(16, 8, k=4)
    section = GroundTruthEvaluation(n_sequences=4).measure(sae, source)
    assert 0 <= section["metrics"]["mcc"] <= 1
