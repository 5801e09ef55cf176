"""Rivals on the toy world: each does what its source says of it."""

import json

import pytest
import torch

from temporal_sae.experiment import Request, run_together
from temporal_sae.sae import load_sae
from tests.test_config_surface import composed

pytestmark = pytest.mark.slow

TOY = ("experiment=toy", "tracker=off", "eval.n_sequences=256")
PLAIN = "loss.ortho_weight=0"
JOBS = {
    "plain": [PLAIN],
    "c2r": ["loss=c2r", "loss.ortho_weight=0.1"],  # 5 is for far larger SAEs
    "aligned": ["trainer.constraint=aligned", PLAIN],
    "frozen": ["trainer.constraint=frozen_decoder", PLAIN],
    "soft": ["trainer.constraint=soft_frozen_decoder", PLAIN],
    "frozen_encoder": ["trainer.constraint=frozen_encoder", PLAIN],
    "lista": ["sae=lista", "sae.n_corrections=2", PLAIN],
    "lista, no correction": ["sae=lista", "sae.n_corrections=0", PLAIN],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs of 976 steps, trained side by side."""
    place = tmp_path_factory.mktemp("rivals")
    requests = []
    for name, options in JOBS.items():
        overrides = [*TOY, "eval=ground_truth", *options]
        requests.append(Request(composed(*overrides), place / name, overrides))
    run_together(requests)
    return {name: place / name for name in JOBS}


@pytest.fixture(scope="module")
def scores(folders):
    return {
        name: json.loads((folder / "results.json").read_text())["ground truth results"]["metrics"]
        for name, folder in folders.items()
    }


def explained(folder):
    results = json.loads((folder / "results.json").read_text())
    return results["training results"]["final_info"]["explained_variance"]


def nearest(folder):
    """Mean of the largest cosine of each latent with another."""
    cosine = (W := load_sae(folder / "sae").W_dec) @ W.T
    return float(cosine.detach().fill_diagonal_(-1).max(1).values.mean())


def test_c2r_lowers_the_largest_positive_cosines(folders):
    assert nearest(folders["c2r"]) < nearest(folders["plain"]) - 0.05


def test_encoder_and_decoder_are_aligned(folders):
    dots = {
        name: (sae.W_enc.T * sae.W_dec).sum(-1).detach()
        for name in ("plain", "aligned")
        for sae in [load_sae(folders[name] / "sae")]
    }
    assert torch.allclose(dots["aligned"], torch.ones(128), atol=1e-3)
    assert float((dots["plain"] - 1).abs().mean()) > 0.1
    assert explained(folders["aligned"]) > 0.6


def test_frozen_matrices_stay_and_a_random_decoder_finds_no_features(folders, scores):
    saes = {name: load_sae(folders[name] / "sae") for name in JOBS}
    cosine = torch.cosine_similarity(saes["soft"].W_dec, saes["frozen"].W_dec)
    assert 0.8 - 1e-5 < cosine.min().item() < 0.81
    ratio = saes["frozen_encoder"].W_enc.T / saes["frozen"].W_dec
    assert ratio.std().item() < 1e-4  # the decoder's transpose, times the number that fits
    mcc = [scores[name]["mcc"] for name in ("frozen", "soft", "plain")]
    assert mcc == sorted(mcc)
    assert mcc[0] < mcc[2] - 0.2


def test_two_corrections_find_more_features_than_none_do(scores):
    assert scores["lista"]["f1"] > scores["plain"]["f1"] + 0.01
    assert scores["lista"]["f1"] > scores["lista, no correction"]["f1"] + 0.02
