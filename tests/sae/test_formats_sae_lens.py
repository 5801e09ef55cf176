"""Folders as SAELens writes them, made by hand, against the plain formula of each architecture."""

import json

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
from tests.sae.formulas import D, F, K, alike, formula, jump, topk, weights

NAMES = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}


def sae_lens_folder(folder, architecture, w, dtype=torch.float32, extra=None, **config):
    folder.mkdir(exist_ok=True)
    names = ("W_enc", "W_dec", "b_dec", *NAMES.get(architecture, ("b_enc",)))
    tensors = {name: w[name].to(dtype).contiguous() for name in names}
    save_file({**tensors, **(extra or {})}, folder / "sae_weights.safetensors")
    shown = {"architecture": architecture, "d_in": D, "d_sae": F, **config}
    (folder / "cfg.json").write_text(json.dumps(shown))
    return folder


CLASSES = {"topk": TopKSAE, "standard": StandardSAE, "jumprelu": JumpReLUSAE, "gated": GatedSAE}


@pytest.mark.parametrize("centers", [True, False])
@pytest.mark.parametrize("architecture", CLASSES)
def test_sae_lens(architecture, centers, tmp_path):
    w, x = weights(), torch.randn(40, D)
    extra = {"k": K} if architecture == "topk" else {}
    sae_lens_folder(tmp_path, architecture, w, apply_b_dec_to_input=centers, **extra)
    alike(tmp_path, CLASSES[architecture], x, *formula(architecture, w, x, centers))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("architecture", ["standard", "gated"])
def test_other_precisions_are_read_as_float32(architecture, dtype, tmp_path):
    w, x = weights(), torch.randn(40, D)
    sae_lens_folder(tmp_path, architecture, w, dtype, apply_b_dec_to_input=False)
    w = {name: tensor.to(dtype).float() for name, tensor in w.items()}
    alike(tmp_path, CLASSES[architecture], x, *formula(architecture, w, x, centers=False))


def rescaled(w, x):
    """TopK of pre-activations times the norms of the decoder."""
    norms = w["W_dec"].norm(dim=-1)
    acts = topk(((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norms)
    return acts, (acts / norms) @ w["W_dec"] + w["b_dec"]


def test_sae_lens_topk_by_decoder_norm(tmp_path):
    w, x = weights(), torch.randn(40, D)
    w["W_dec"] *= torch.rand(F, 1) * 3
    acts, x_hat = rescaled(w, x)
    assert not torch.equal(acts > 0, formula("topk", w, x)[0] > 0)
    sae_lens_folder(tmp_path, "topk", w, k=K, rescale_acts_by_decoder_norm=True)
    alike(tmp_path, TopKSAE, x, acts, x_hat)


def test_a_decoder_row_of_zeros_stays_one(tmp_path):
    w, x = weights(), torch.randn(40, D)
    w["W_dec"][3] = 0
    sae_lens_folder(tmp_path, "topk", w, k=K, rescale_acts_by_decoder_norm=True)
    sae = load_sae(tmp_path)
    assert sae(x).isfinite().all()
    assert (sae.encode_dense(x)[:, 3] == 0).all()


@pytest.mark.parametrize("centers", [True, False])
@pytest.mark.parametrize("architecture", CLASSES)
def test_an_input_factor_in_a_checkpoint(architecture, centers, tmp_path):
    w, x, factor = weights(), torch.randn(40, D), 0.37
    extra = {"k": K} if architecture == "topk" else {}
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
    sae_lens_folder(
        tmp_path,
        architecture,
        w,
        normalize_activations="expected_average_only_in",
        apply_b_dec_to_input=centers,
        **extra,
    )
    acts, x_hat = formula(architecture, w, x * factor, centers)
    alike(tmp_path, CLASSES[architecture], x, acts, x_hat / factor)


THRESHOLD = torch.tensor(0.6, dtype=torch.float64)


@pytest.mark.parametrize("rescale", [True, False])
def test_batchtopk_as_sae_lens_has_it_in_training(rescale, tmp_path):
    w, x = weights(), torch.randn(40, D)
    norms = w["W_dec"].norm(dim=-1) if rescale else torch.ones(F)
    z = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norms
    acts = jump(0.6)(z)
    x_hat = (acts / norms) @ w["W_dec"] + w["b_dec"]
    threshold = {"topk_threshold": THRESHOLD}
    options = {"k": 4.0, "rescale_acts_by_decoder_norm": rescale}
    sae_lens_folder(tmp_path, "batchtopk", w, extra=threshold, **options)
    assert alike(tmp_path, BatchTopKSAE, x, acts, x_hat).k == 4
    # k of 4.5 a token has no trainer here; the function is a JumpReLU's either way.
    sae_lens_folder(tmp_path, "batchtopk", w, extra=threshold, **options | {"k": 4.5})
    alike(tmp_path, JumpReLUSAE, x, acts, x_hat)
    sae_lens_folder(
        tmp_path, "matryoshka_batchtopk", w, extra=threshold, matryoshka_widths=[8, 20], **options
    )
    alike(tmp_path, MatryoshkaSAE, x, acts, x_hat)


def test_a_batchtopk_that_was_never_trained_is_refused(tmp_path):
    unset = {"topk_threshold": torch.zeros((), dtype=torch.float64)}
    sae_lens_folder(tmp_path, "batchtopk", weights(), extra=unset, k=4)
    with pytest.raises(RunError, match="topk_threshold=0 was never set"):
        load_sae(tmp_path)
    sae_lens_folder(tmp_path, "batchtopk", weights(), k=4)
    with pytest.raises(RunError, match="'topk_threshold' is missing"):
        load_sae(tmp_path)


def test_sae_lens_before_it_had_names_for_architectures(tmp_path):
    w, x = weights(), torch.randn(40, D)
    sae_lens_folder(tmp_path, "standard", w, extra={"scaling_factor": torch.ones(F)})
    old = {"model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre", "d_in": D}
    old |= {"d_sae": F, "l1_coefficient": 8e-5, "dtype": "torch.float32", "prepend_bos": True}
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    alike(tmp_path, StandardSAE, x, *formula("standard", w, x))
    # From version 6 on there are metadata, and the name is never left out.
    (tmp_path / "cfg.json").write_text(json.dumps(old | {"metadata": {}}))
    with pytest.raises(RunError, match="names no architecture"):
        load_sae(tmp_path)
    # Of others the weights are more, or the activation function is named.
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    save_file({name: w[name] for name in w}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(RunError, match="this architecture has no such tensor"):
        load_sae(tmp_path)


def test_sae_lens_before_version_6(tmp_path):
    w, x = weights(), torch.randn(40, D)
    old = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    ones = {"scaling_factor": torch.ones(F)}
    sae_lens_folder(tmp_path, "standard", w, extra=ones, normalize_activations=False, **old)
    alike(tmp_path, TopKSAE, x, *formula("topk", w, x))
    w["threshold"] += 0.1
    log = {"log_threshold": w["threshold"].log()}
    sae_lens_folder(tmp_path, "standard", w, extra=log)
    config = tmp_path / "cfg.json"
    config.write_text(config.read_text().replace("standard", "jumprelu"))
    alike(tmp_path, JumpReLUSAE, x, *formula("jumprelu", w, x))


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("transcoder", {}, "architecture 'transcoder' is not known"),
        ("temporal", {}, "is not known"),
        ("abstopk", {"k": 4}, "is not known"),
        ("standard", {"normalize_activations": "constant_norm_rescale"}, "constant_norm_rescale"),
        ("standard", {"normalize_activations": True}, "without a factor"),
        ("standard", {"normalize_activations": "expected_average_only_in"}, "without a factor"),
        ("standard", {"reshape_activations": "hook_z"}, "hook_z"),
        ("standard", {"hook_name": "blocks.0.attn.hook_z"}, "reshape_activations='hook_z'"),
        ("standard", {"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm=True"),
        ("standard", {"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ("standard", {"activation_fn": "tanh-relu"}, "tanh-relu"),
        ("topk", {}, "'k' is missing"),
        ("gated", {"d_in": 7}, "has shape"),
    ],
)
def test_sae_lens_refusals(architecture, options, message, tmp_path):
    sae_lens_folder(tmp_path, architecture, weights(), **options)
    with pytest.raises(RunError, match=message):
        load_sae(tmp_path)


def test_a_scaler_without_a_factor_and_a_tensor_without_a_meaning(tmp_path):
    w = weights()
    normalized = {"normalize_activations": "expected_average_only_in"}
    sae_lens_folder(tmp_path, "standard", w, **normalized)
    for content in ({"scaling_factor": None}, {"scaling_factor": 2.0, "has_whitening": True}):
        (tmp_path / "activation_scaler.json").write_text(json.dumps(content))
        with pytest.raises(RunError, match="no factor alone"):
            load_sae(tmp_path)
    sae_lens_folder(tmp_path, "standard", w, extra={"scaling_factor": torch.full((F,), 2.0)})
    with pytest.raises(RunError, match="scaling_factor: this architecture has no such tensor"):
        load_sae(tmp_path)
