"""Folders as dictionary_learning and sparsify write them, made by hand, against plain formulas."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from temporal_sae.errors import RunError
from temporal_sae.sae import (
    BatchTopKSAE,
    GatedSAE,
    JumpReLUSAE,
    MatryoshkaSAE,
    StandardSAE,
    TopKSAE,
    load_sae,
)
from tests.sae.formulas import D, F, K, alike, formula, jump, relu, topk, weights

LINEAR = {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "encoder.bias": "b_enc"}
PLAIN = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
STORED = {
    "AutoEncoder": {**LINEAR, "bias": "b_dec"},
    "AutoEncoderNew": {**LINEAR, "decoder.bias": "b_dec"},
    "AutoEncoderTopK": {**LINEAR, "b_dec": "b_dec"},
    "BatchTopKSAE": {**LINEAR, "b_dec": "b_dec"},
    "MatryoshkaBatchTopKSAE": PLAIN,
    "JumpReluAutoEncoder": {**PLAIN, "threshold": "threshold"},
    "GatedAutoEncoder": {
        **{"encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec"},
        **{"gate_bias": "b_gate", "mag_bias": "b_mag", "r_mag": "r_mag"},
    },
}
BUFFERS = {
    "AutoEncoderTopK": {"k": torch.tensor(K), "threshold": torch.tensor(-1.0)},
    "BatchTopKSAE": {"k": torch.tensor(K), "threshold": torch.tensor(0.6)},
    "MatryoshkaBatchTopKSAE": {
        **{"k": torch.tensor(K), "threshold": torch.tensor(0.6)},
        "group_sizes": torch.tensor([8, 12, 12]),
    },
}
DICTIONARIES = {
    "AutoEncoder": (StandardSAE, relu, True),
    "AutoEncoderNew": (StandardSAE, relu, False),
    "AutoEncoderTopK": (TopKSAE, topk, True),
    "BatchTopKSAE": (BatchTopKSAE, jump(0.6), True),
    "MatryoshkaBatchTopKSAE": (MatryoshkaSAE, jump(0.6), True),
}


def dictionary_folder(folder, name, w, changes=None, **config):
    state = {
        theirs: w[ours].T.contiguous() if theirs.endswith("weight") else w[ours]
        for theirs, ours in STORED[name].items()
    }
    state |= BUFFERS.get(name, {})
    state |= changes or {}
    trainer = {"dict_class": name, "activation_dim": D, "dict_size": F}
    trainer |= {"k": K} if "k" in state else {}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer | config}))
    torch.save(state, folder / "ae.pt")


@pytest.mark.parametrize("name", DICTIONARIES)
def test_dictionary_learning(name, tmp_path):
    w, x = weights(), torch.randn(40, D)
    cls, activation, centers = DICTIONARIES[name]
    acts = activation((x - centers * w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    dictionary_folder(tmp_path, name, w)
    alike(tmp_path, cls, x, acts, acts @ w["W_dec"] + w["b_dec"])


def test_dictionary_learning_gated_and_jumprelu(tmp_path):
    w, x = weights(), torch.randn(40, D)
    dictionary_folder(tmp_path, "GatedAutoEncoder", w)
    alike(tmp_path, GatedSAE, x, *formula("gated", w, x))
    w["threshold"][:5] = -0.01  # its training lets them pass 0, where a ReLU takes over
    dictionary_folder(tmp_path, "JumpReluAutoEncoder", w)
    acts = jump(w["threshold"])(x @ w["W_enc"] + w["b_enc"]).relu()
    sae = alike(tmp_path, JumpReLUSAE, x, acts, acts @ w["W_dec"] + w["b_dec"])
    assert (sae.threshold >= 0).all()


def test_dictionary_learning_checkpoints_and_older_files(tmp_path):
    w, x = weights(), torch.randn(40, D)
    dictionary_folder(tmp_path, "AutoEncoderTopK", w)
    (tmp_path / "checkpoints").mkdir()
    checkpoint = (tmp_path / "ae.pt").rename(tmp_path / "checkpoints" / "ae_1000.pt")
    alike(checkpoint, TopKSAE, x, *formula("topk", w, x))
    # Once k and the threshold were no part of the weights.
    state = torch.load(checkpoint, weights_only=True)
    torch.save({n: t for n, t in state.items() if n not in ("k", "threshold")}, checkpoint)
    alike(checkpoint, TopKSAE, x, *formula("topk", w, x))


@pytest.mark.parametrize(
    ("name", "changes", "config", "message"),
    [
        ("AutoEncoder", {}, {"dict_class": "IdentityDict"}, "dict_class='IdentityDict'"),
        ("AutoEncoder", {}, {"dict_class": "os.system"}, "is not known"),
        ("AutoEncoder", {}, {"dict_class": None}, "is not known"),
        ("AutoEncoder", {"more": torch.ones(1)}, {}, "more: this class has no such tensor"),
        ("AutoEncoder", {}, {"dict_class": "GatedAutoEncoder"}, "no such tensor"),
        ("AutoEncoder", {}, {"activation_dim": 7}, "activation_dim=7"),
        ("AutoEncoderTopK", {}, {"k": 5}, "they say 4 and 5"),
        ("BatchTopKSAE", {"threshold": torch.tensor(-1.0)}, {}, "threshold=-1 was never set"),
        ("BatchTopKSAE", {"threshold": torch.tensor(torch.nan)}, {}, "threshold=nan"),
        ("MatryoshkaBatchTopKSAE", {"threshold": torch.tensor(-1.0)}, {}, "was never set"),
        ("JumpReluAutoEncoder", {"threshold": torch.full((F,), -1.0)}, {}, "was never set"),
        ("JumpReluAutoEncoder", {"threshold": torch.ones(3)}, {}, "cannot be read"),
    ],
)
def test_dictionary_learning_refusals(name, changes, config, message, tmp_path):
    dictionary_folder(tmp_path, name, weights(), changes, **config)
    with pytest.raises(RunError, match=message):
        load_sae(tmp_path)


@pytest.mark.parametrize("name", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"])
def test_a_missing_threshold_is_no_guess(name, tmp_path):
    dictionary_folder(tmp_path, name, weights())
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    del state["threshold"]
    torch.save(state, tmp_path / "ae.pt")
    with pytest.raises(RunError, match="'threshold' is missing"):
        load_sae(tmp_path)


def test_dictionary_learning_transcoders_and_missing_files(tmp_path):
    dictionary_folder(tmp_path, "AutoEncoder", weights())
    config = tmp_path / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"buffer": {"io": "in_and_out"}}))
    with pytest.raises(RunError, match="transcoder"):
        load_sae(tmp_path)
    config.write_text("{}")
    with pytest.raises(RunError, match="dict_class=None"):
        load_sae(tmp_path)
    config.unlink()
    with pytest.raises(RunError, match=r"cannot be used without .*config\.json"):
        load_sae(tmp_path)


class Harmful:
    def __reduce__(self):
        return (print, ("this must not be printed",))


@pytest.mark.parametrize("content", [Harmful(), {"W_enc": Harmful()}, [torch.ones(2)], {"k": 3}])
def test_nothing_is_unpickled(content, tmp_path, capsys):
    dictionary_folder(tmp_path, "AutoEncoder", weights())
    for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))):
        write(content, tmp_path / "ae.pt")
        with pytest.raises(RunError, match="cannot be read") as refusal:
            load_sae(tmp_path)
        assert "\n" not in str(refusal.value)
        assert "weights_only" not in str(refusal.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"no tensors", b"PK\x03\x04 cut"])
def test_a_damaged_file_of_tensors_is_one_line(content, tmp_path):
    dictionary_folder(tmp_path, "AutoEncoder", weights())
    (tmp_path / "ae.pt").write_bytes(content)
    with pytest.raises(RunError, match=r"ae\.pt: cannot be read"):
        load_sae(tmp_path)


# --- sparsify ------------------------------------------------------------------------------------


def sparsify_folder(folder, w, extra=None, **config):
    folder.mkdir(exist_ok=True)
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    tensors |= {"W_dec": w["W_dec"], "b_dec": w["b_dec"], **(extra or {})}
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "sae.safetensors")
    options = {"activation": "topk", "num_latents": F, "expansion_factor": 32, "k": K, "d_in": D}
    (folder / "cfg.json").write_text(json.dumps(options | config))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"multi_topk": False, "normalize_decoder": True, "skip_connection": False},
        {"signed": False, "transcode": False, "something_new": False},
    ],
)
def test_sparsify(config, tmp_path):
    w, x = weights(), torch.randn(40, D)
    sparsify_folder(tmp_path, w, **config)
    alike(tmp_path, TopKSAE, x, *formula("topk", w, x))


def test_sparsify_counts_latents_by_the_expansion_factor(tmp_path):
    w = weights()
    w["W_enc"], w["b_enc"], w["W_dec"] = torch.randn(D, 12), torch.randn(12), torch.randn(12, D)
    sparsify_folder(tmp_path, w, num_latents=0, expansion_factor=2)
    assert load_sae(tmp_path).d_sae == 12


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"transcode": True}, "transcode=True"),
        ({"skip_connection": True}, "skip_connection=True"),
        ({"activation": "groupmax"}, "activation='groupmax'"),
        ({"multi_topk": True}, "multi_topk=True"),
        ({"signed": True}, "signed=True"),
        ({"something_new": 3}, "something_new=3 is an option that is not known"),
        ({"d_in": 7}, "has shape"),
    ],
)
def test_sparsify_refusals(config, message, tmp_path):
    sparsify_folder(tmp_path, weights(), **config)
    with pytest.raises(RunError, match=message):
        load_sae(tmp_path)


def test_sparsify_skip_weights_and_the_folder_above_hookpoints(tmp_path):
    sparsify_folder(tmp_path / "layers.3", weights())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match=r"holds no SAE itself, but its subfolders do: layers\.3;"):
        load_sae(tmp_path)
    sparsify_folder(tmp_path / "layers.3", weights(), extra={"W_skip": torch.zeros(D, D)})
    with pytest.raises(RunError, match="W_skip: a TopK SAE has no such tensor"):
        load_sae(tmp_path / "layers.3")
