"""Saving, loading, and refusing what would load as the wrong thing."""

import json

import pytest
import torch
from safetensors.torch import load_file

from temporal_sae.errors import RunError
from temporal_sae.sae import StandardSAE, TopKSAE, load_sae


@pytest.mark.parametrize(
    "sae", [TopKSAE(6, 24, k=4), StandardSAE(6, 24)], ids=lambda s: s.architecture
)
def test_round_trip_is_exact(sae, tmp_path):
    sae.b_enc.data.normal_()
    sae.save(tmp_path / "sae", {"model_name": "tiny", "hook_name": "blocks.3.hook_resid_post"})
    loaded = load_sae(tmp_path / "sae")
    assert type(loaded) is type(sae)
    assert loaded.config() == sae.config()
    x = torch.randn(5, 6)
    assert torch.equal(loaded(x), sae(x))


def test_files_and_shapes(tmp_path):
    TopKSAE(6, 24, k=4).save(tmp_path, {"hook_name": "model.layers.3"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    shapes = {
        name: tuple(t.shape) for name, t in load_file(tmp_path / "sae_weights.safetensors").items()
    }
    assert shapes == {"W_enc": (6, 24), "W_dec": (24, 6), "b_enc": (24,), "b_dec": (6,)}
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["architecture"], config["k"]) == ("topk", 4)
    assert config["metadata"]["hook_name"] == "model.layers.3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "magic"}, "architecture 'magic' is not known"),
        ({"architecture": "os.system"}, "is not known"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm'"),
        ({"apply_b_dec_to_input": False}, "apply_b_dec_to_input=False"),
        ({"d_sae": 12}, "cannot be read"),
    ],
)
def test_refuses_loudly(change, message, tmp_path):
    TopKSAE(6, 24, k=4).save(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | change))
    with pytest.raises(RunError, match=message):
        load_sae(tmp_path)


def test_a_single_latent_can_be_saved(tmp_path):
    sae = TopKSAE(6, 1, k=1)
    sae.W_enc.data = sae.W_dec.data.T  # one memory under two names
    sae.save(tmp_path)
    assert torch.equal(load_sae(tmp_path).W_enc, sae.W_enc)


def test_a_missing_k_is_no_guess(tmp_path):
    TopKSAE(6, 24, k=4).save(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config["k"]
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="'k'"):
        load_sae(tmp_path)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(RunError, match=r"cfg\.json: cannot be read"):
        load_sae(tmp_path)
    TopKSAE(6, 24, k=4).save(tmp_path)
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(RunError, match="cannot be read"):
        load_sae(tmp_path)
