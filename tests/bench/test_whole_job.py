"""Whole jobs beside SAELens: both end with an SAE, and one function judges those of both."""

import json
import subprocess
import sys

import pytest
import torch

from temporal_sae.sae import TopKSAE
from tests.pages import ROOT

sae_lens = pytest.importorskip("sae_lens", reason="the bench extra is not installed")

METADATA = {"model_name": "tiny", "hook_name": "blocks.3.hook_resid_post", "prepend_bos": True}
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def whole_job(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import whole_job

    return whole_job


def explained(x, x_hat):
    return float(1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


@torch.no_grad()
def test_explained_variance_is_that_of_each_package(whole_job, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(3000, 16) + 0.5
    ours = TopKSAE(16, 64, 4)
    ours.b_dec.fill_(0.4)
    ours.save(tmp_path / "ours", METADATA)
    assert whole_job.explained_variance(tmp_path / "ours", x) == pytest.approx(
        explained(x, ours(x)), abs=1e-6
    )

    config = sae_lens.TopKTrainingSAEConfig(d_in=16, d_sae=64, k=4)
    theirs = sae_lens.TopKTrainingSAE(config)
    theirs.W_dec.mul_(torch.rand(64, 1) + 0.5)
    theirs.b_enc.normal_()
    theirs.save_inference_model(tmp_path / "theirs")
    loaded = sae_lens.SAE.load_from_disk(tmp_path / "theirs")
    expected = pytest.approx(explained(x, theirs(x)), abs=1e-6)
    assert explained(x, loaded(x)) == expected
    assert whole_job.explained_variance(tmp_path / "theirs", x) == expected


def test_an_sae_of_another_kind_is_refused(whole_job, tmp_path):
    config = sae_lens.StandardTrainingSAEConfig(d_in=16, d_sae=64)
    sae_lens.StandardTrainingSAE(config).save_inference_model(tmp_path)
    with pytest.raises(ValueError, match="standard"):
        whole_job.explained_variance(tmp_path, torch.randn(8, 16))


@pytest.mark.slow
@pytest.mark.parametrize("n_saes", [1, 2])
def test_both_packages_come_from_text_to_saes(n_saes, tmp_path):
    out = tmp_path / "out.json"
    options = ["--shapes", "tiny", "--saes", str(n_saes), "--threads", "1", "--out", str(out)]
    command = [sys.executable, str(BENCHMARKS / "whole_job.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(out.read_text())["results"]
    assert (ours["subject"], theirs["subject"]) == ("ours", "SAELens")
    for result in (ours, theirs):
        assert (result["shape"], result["saes"], result["tokens"]) == ("tiny", n_saes, 1024)
        assert 0 < result["training_seconds"] < result["seconds"] <= result["seconds_to_the_end"]
        assert result["peak_mib"] > 100
        assert -1 < result["explained_variance"] < 1
