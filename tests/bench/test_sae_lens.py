"""SAELens reads our folders, we read its, and both compute the same (needs the `bench` extra)."""

import pytest
import torch

from temporal_sae.sae import (
    BatchTopKSAE,
    GatedSAE,
    JumpReLUSAE,
    MatryoshkaSAE,
    StandardSAE,
    TopKSAE,
    load_sae,
)

sae_lens = pytest.importorskip("sae_lens", reason="the bench extra is not installed")

METADATA = {"model_name": "tiny", "hook_name": "blocks.3.hook_resid_post", "prepend_bos": True}
OURS = {
    "topk": lambda: TopKSAE(32, 256, k=8),
    "standard": lambda: StandardSAE(32, 256),
    "jumprelu": lambda: JumpReLUSAE(32, 256),
    "gated": lambda: GatedSAE(32, 256),
    "batch_topk": lambda: BatchTopKSAE(32, 256, k=8),
    "matryoshka": lambda: MatryoshkaSAE(32, 256, k=8),
}
SAVED_AS = {"batch_topk": "jumprelu", "matryoshka": "jumprelu"}
THEIRS = {
    "Standard": (StandardSAE, {}),
    "TopK": (TopKSAE, {"k": 8}),
    "JumpReLU": (JumpReLUSAE, {}),
    "Gated": (GatedSAE, {}),
}
BY_BATCH = {
    "BatchTopK": (BatchTopKSAE, {"k": 8.0}),
    "MatryoshkaBatchTopK": (MatryoshkaSAE, {"k": 8.0, "matryoshka_widths": [32, 96, 256]}),
}


def randomized(sae):
    for name, parameter in sae.named_parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
        if name == "threshold":
            parameter.data.abs_()
    return sae


def theirs(name, **options):
    config = getattr(sae_lens, f"{name}SAEConfig")(d_in=32, d_sae=256, **options)
    return randomized(getattr(sae_lens, f"{name}SAE")(config))


@pytest.mark.parametrize("name", OURS)
def test_sae_lens_encodes_and_decodes_alike(name, compare, tmp_path):
    ours = randomized(OURS[name]())
    if name in SAVED_AS:
        ours.threshold.fill_(0.8)
    ours.save(tmp_path, METADATA)
    loaded = sae_lens.SAE.load_from_disk(str(tmp_path))
    assert loaded.cfg.architecture() == SAVED_AS.get(name, name)
    assert loaded.cfg.metadata.hook_name == METADATA["hook_name"]
    x = torch.randn(64, 32)
    compare(ours, loaded.encode, loaded.decode, x)
    assert torch.allclose(ours.decode(ours.encode(x)), loaded(x), atol=1e-5)


@pytest.mark.parametrize("centers", [True, False])
@pytest.mark.parametrize("name", THEIRS)
def test_we_read_what_sae_lens_writes(name, centers, compare, tmp_path):
    cls, options = THEIRS[name]
    sae = theirs(name, apply_b_dec_to_input=centers, **options)
    sae.save_model(tmp_path)
    ours = load_sae(tmp_path)
    assert type(ours) is cls
    compare(ours, sae.encode, sae.decode, torch.randn(64, 32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_we_read_its_half_precision_as_float32(dtype, compare, tmp_path):
    theirs("TopK", k=8, dtype=dtype, apply_b_dec_to_input=False).save_model(tmp_path)
    loaded = sae_lens.SAE.load_from_disk(str(tmp_path), dtype="float32")
    compare(load_sae(tmp_path), loaded.encode, loaded.decode, torch.randn(64, 32))


def test_its_topk_by_decoder_norm(compare, tmp_path):
    sae = theirs("TopK", k=8, rescale_acts_by_decoder_norm=True)
    sae.W_dec.data *= 3 * torch.rand(256, 1)
    sae.save_model(tmp_path)
    compare(load_sae(tmp_path), sae.encode, sae.decode, torch.randn(64, 32))


@pytest.mark.parametrize("how", ["save_model", "save_inference_model"])
@pytest.mark.parametrize("name", THEIRS)
def test_its_training_models(name, how, compare, tmp_path):
    cls, options = THEIRS[name]
    sae = theirs(f"{name}Training", **options)
    getattr(sae, how)(tmp_path)
    ours, x = load_sae(tmp_path), torch.randn(64, 32)
    assert type(ours) is cls
    compare(ours, sae.encode, sae.decode, x)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("name", BY_BATCH)
def test_its_batchtopk_becomes_what_its_inference_model_computes(name, rescale, compare, tmp_path):
    cls, options = BY_BATCH[name]
    sae = theirs(f"{name}Training", rescale_acts_by_decoder_norm=rescale, **options)
    sae.topk_threshold += 0.7
    sae.save_inference_model(tmp_path / "inference")
    sae.save_model(tmp_path / "training")
    expected, x = sae_lens.SAE.load_from_disk(str(tmp_path / "inference")), torch.randn(64, 32)
    for folder, kind in (("inference", JumpReLUSAE), ("training", cls)):
        ours = load_sae(tmp_path / folder)
        assert type(ours) is kind
        compare(ours, expected.encode, expected.decode, x)


@pytest.mark.parametrize("centers", [True, False])
@pytest.mark.parametrize("name", THEIRS | BY_BATCH)
def test_its_checkpoint_with_an_input_factor(name, centers, compare, tmp_path):
    """As its own training ends: the factor folded in first, then the inference model."""
    from sae_lens.training.activation_scaler import ActivationScaler

    normalized = {"normalize_activations": "expected_average_only_in"}
    options = (THEIRS | BY_BATCH)[name][1] | {"apply_b_dec_to_input": centers}
    sae = theirs(f"{name}Training", **normalized, **options)
    if name in BY_BATCH:
        sae.topk_threshold += 0.7
    sae.save_model(tmp_path / "checkpoint")
    ActivationScaler(scaling_factor=0.4).save(str(tmp_path / "checkpoint/activation_scaler.json"))
    sae.fold_activation_norm_scaling_factor(0.4)
    sae.save_inference_model(tmp_path / "end")
    expected = sae_lens.SAE.load_from_disk(str(tmp_path / "end"))
    ours = load_sae(tmp_path / "checkpoint")
    compare(ours, expected.encode, expected.decode, torch.randn(64, 32))
