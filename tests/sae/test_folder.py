"""Saving, loading, and refusing what would load as the wrong thing."""

import json

import pytest
import torch
from safetensors.torch import load_file

from temporal_sae.errors import RunError
from temporal_sae.sae import (
    BatchTopKSAE,
    GatedSAE,
    JumpReLUSAE,
    ListaSAE,
    MatryoshkaSAE,
    StandardSAE,
    TopKSAE,
    load_sae,
)

SAES = [TopKSAE, StandardSAE, JumpReLUSAE, GatedSAE, BatchTopKSAE, MatryoshkaSAE, ListaSAE]


def made(cls, d_in=6, d_sae=32):
    """An SAE in which no parameter is at its initial value."""
    has_k = issubclass(cls, TopKSAE | BatchTopKSAE)
    sae = cls(d_in, d_sae, **({"k": 4} if has_k else {}))
    for parameter in sae.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    if hasattr(sae, "threshold"):
        sae.threshold.data = torch.rand_like(sae.threshold)
    return sae


@pytest.mark.parametrize("cls", SAES)
def test_round_trip_is_exact(cls, tmp_path):
    sae = made(cls)
    sae.save(tmp_path / "sae", {"model_name": "tiny", "hook_name": "blocks.3.hook_resid_post"})
    loaded = load_sae(tmp_path / "sae")
    assert type(loaded) is type(sae)
    assert loaded.config() == sae.config()
    x = torch.randn(5, 6)
    assert torch.equal(loaded(x), sae(x))
    assert torch.equal(loaded.encode_dense(x), sae.encode_dense(x))


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
        ({"architecture": None}, "names no architecture"),
        ({"trained_as": {"architecture": "magic"}}, "architecture 'magic' is not known"),
        ({"trained_as": "magic"}, "cannot be read"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm'"),
        ({"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input='no'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations='hook_z'"),
        ({"d_sae": 12}, "cannot be read"),
        ({"k": "many"}, "cannot be read"),
        ({"k": 25}, "cannot be read"),
    ],
)
def test_refuses_loudly(change, message, tmp_path):
    TopKSAE(6, 24, k=4).save(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | change))
    with pytest.raises(RunError, match=message) as refusal:
        load_sae(tmp_path)
    assert "\n" not in str(refusal.value)


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
    with pytest.raises(
        RunError, match=r"holds no SAE; looked for .*sae_weights\.safetensors with cfg\.json"
    ):
        load_sae(tmp_path)
    with pytest.raises(RunError, match="no such file or folder"):
        load_sae(tmp_path / "elsewhere")
    TopKSAE(6, 24, k=4).save(tmp_path)
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(RunError, match="cannot be read"):
        load_sae(tmp_path)
    for content in ("[]", "{", '"a": NaN'):
        (tmp_path / "cfg.json").write_text(content)
        with pytest.raises(RunError, match=r"cfg\.json: cannot be read"):
            load_sae(tmp_path)
    (tmp_path / "cfg.json").unlink()
    with pytest.raises(RunError, match=r"cfg\.json: cannot be read"):
        load_sae(tmp_path)


def test_a_file_stands_for_its_folder(tmp_path):
    sae = made(TopKSAE)
    sae.save(tmp_path)
    x = torch.randn(5, 6)
    assert torch.equal(load_sae(tmp_path / "sae_weights.safetensors")(x), sae(x))
    with pytest.raises(RunError, match=r"cfg\.json: is no weights file"):
        load_sae(tmp_path / "cfg.json")


def test_the_folder_above_is_answered_with_those_below(tmp_path):
    for name in ("a", "b", "c/sae", "d", "e", "f"):
        TopKSAE(6, 24, k=4).save(tmp_path / name)
    with pytest.raises(RunError, match="subfolders do: a, b, c/sae, d, e and 1 more; looked for"):
        load_sae(tmp_path)


def test_two_formats_in_one_folder_are_not_chosen_from(tmp_path):
    TopKSAE(6, 24, k=4).save(tmp_path)
    (tmp_path / "ae.pt").write_bytes(b"")
    with pytest.raises(RunError, match=r"holds ae\.pt and sae_weights\.safetensors"):
        load_sae(tmp_path)
