"""Core has the values that theory says, and kept artifacts change no number; sae_bench is real."""

import pytest
import torch

pytest.importorskip("sae_bench", reason="needs the bench extra")

from temporal_sae.eval.reconstruction import ReconstructionSums
from temporal_sae.sae import StandardSAE
from tests.bench.standins import build_main
from tests.bench.standins.inside import evaluate_inside
from tests.bench.standins.models import WIDTH
from tests.bench.standins.saes import linear_sae, toy_sae
from tests.bench.test_saebench import without_times


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return build_main(tmp_path_factory.mktemp("hub"))


def core(sae, folder, hub, **options):
    """Core on all axes of the stand-in's activations."""
    sizes = {"n_eval_reconstruction_batches": 2, "n_eval_sparsity_variance_batches": 4, **options}
    return evaluate_inside(sae, folder / "work", hub, "core", **sizes)


def quality(record):
    textbook = record["eval_result_unstructured"]["explained_variance_textbook"]
    performance = record["eval_result_metrics"]["model_performance_preservation"]
    return performance["ce_loss_score"], textbook


@pytest.fixture(scope="module")
def identity(tmp_path_factory, hub):
    """The record of an SAE that changes nothing, and the activations it has seen."""
    seen, add = [], ReconstructionSums.add

    def listen(self, x, latents, x_hat):
        seen.append(x.double())
        add(self, x, latents, x_hat)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReconstructionSums, "add", listen)
        sae = linear_sae(torch.eye(WIDTH), torch.zeros(WIDTH))
        record = core(sae, tmp_path_factory.mktemp("identity"), hub)
    return record, torch.cat(seen)


def test_identity_recovers_everything(identity):
    record, x = identity
    assert quality(record) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-6))
    metrics = record["eval_result_metrics"]
    assert metrics["model_behavior_preservation"]["kl_div_score"] == pytest.approx(1, abs=1e-3)
    assert metrics["reconstruction_quality"]["cossim"] == pytest.approx(1, abs=1e-5)
    assert metrics["shrinkage"]["l2_ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["sparsity"]["l0"] == pytest.approx(WIDTH, abs=0.1)
    assert len(x) == record["eval_result_unstructured"]["tokens"]


@pytest.mark.parametrize("kept", [4, 16, 32])
def test_principal_components_explain_their_share(identity, hub, tmp_path, kept):
    x = identity[1]
    mean = x.mean(0)
    shares, axes = torch.linalg.eigh((x - mean).T @ (x - mean))
    share = float(shares[-kept:].sum() / shares.sum())
    sae = linear_sae(axes.T[-kept:].float(), mean.float())
    _, textbook = quality(core(sae, tmp_path, hub))
    assert 0.1 < share < 0.99
    assert textbook == pytest.approx(share, abs=1e-4)


def test_zeros_recover_nothing(hub, tmp_path):
    """Special tokens keep their activations by default; here zeros replace them too."""
    sae = StandardSAE(WIDTH, 80)
    sae.b_enc.data.fill_(-1e6)
    record = core(sae, tmp_path, hub, exclude_special_tokens_from_reconstruction=False)
    score, textbook = quality(record)
    assert score == pytest.approx(0, abs=1e-6)
    assert textbook < 0.01
    assert record["eval_result_metrics"]["sparsity"] == {"l0": 0, "l1": 0}


@pytest.mark.parametrize(
    ("evaluation", "options"),
    [
        ("sparse_probing", {"dataset_names": ["LabHC/bias_in_bios_class_set2"], "k_values": [2]}),
        ("tpp", {"dataset_names": ["LabHC/bias_in_bios_class_set1"]}),
        (
            "scr",
            {
                "dataset_names": ["LabHC/bias_in_bios_class_set1"],
                "column1_vals_lookup": {"LabHC/bias_in_bios_class_set1": [["professor", "nurse"]]},
            },
        ),
    ],
)
def test_the_same_numbers_from_kept_artifacts(hub, tmp_path, capsys, evaluation, options):
    records, read = [], []
    for n, keep in enumerate((False, True, True)):
        work = tmp_path / f"work{n}"
        records.append(evaluate_inside(toy_sae(), work, hub, evaluation, keep=keep, **options))
        read.append("Loading activations from" in capsys.readouterr().out)
    assert read == [False, False, True]
    assert without_times(records[0]) == without_times(records[1]) == without_times(records[2])
