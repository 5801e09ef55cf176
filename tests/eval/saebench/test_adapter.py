"""The adapter gives sae_bench unit decoders, and computes what the SAE computes."""

import pytest
import torch

from temporal_sae.eval.saebench.adapter import SAEBenchConfig, SAEBenchSAE
from temporal_sae.sae import (
    BatchTopKSAE,
    GatedSAE,
    JumpReLUSAE,
    ListaSAE,
    MatryoshkaSAE,
    StandardSAE,
    TopKSAE,
)
from tests.eval.saebench.test_options import SCR

D, F = 12, 40
ARCHITECTURES = {
    "topk": lambda: TopKSAE(D, F, k=5),
    "standard": lambda: StandardSAE(D, F),
    "jumprelu": lambda: JumpReLUSAE(D, F),
    "gated": lambda: GatedSAE(D, F),
    "batch_topk": lambda: BatchTopKSAE(D, F, k=5),
    "matryoshka": lambda: MatryoshkaSAE(D, F, k=5),
    "lista": lambda: ListaSAE(D, F, k=5),
}


def randomized(name):
    """Weights at random, and a decoder whose rows have any length."""
    sae = ARCHITECTURES[name]()
    for parameter in sae.parameters():
        parameter.data = torch.randn_like(parameter)
    if hasattr(sae, "threshold"):
        sae.threshold.data.abs_()
    return sae.requires_grad_(False)


@pytest.fixture(params=ARCHITECTURES)
def pair(request):
    """An SAE and the adapter around another one of the same weights."""
    torch.manual_seed(3)
    sae = randomized(request.param)
    torch.manual_seed(3)
    return sae, SAEBenchSAE(randomized(request.param), SCR)


def test_unit_rows_and_the_same_reconstruction(pair):
    sae, adapted = pair
    x = torch.randn(6, 4, D)
    norms = sae.W_dec.norm(dim=-1)
    assert torch.allclose(adapted.W_dec.norm(dim=-1), torch.ones(F), atol=1e-6)
    acts = adapted.encode(x)
    assert acts.shape == (6, 4, F) and (acts > 0).any() and (acts == 0).any()
    assert torch.allclose(acts.view(-1, F), sae.encode_dense(x.view(-1, D)) * norms, atol=1e-5)
    assert torch.allclose(adapted.decode(acts), sae(x.view(-1, D)).view_as(x), atol=1e-4)
    assert torch.allclose(adapted(x), adapted.decode(acts))


def test_encoder_weights_belong_to_the_unit_rows(pair):
    sae, adapted = pair
    norms = sae.W_dec.norm(dim=-1)
    assert torch.allclose(adapted.W_enc, sae.W_enc * norms, atol=1e-6)
    assert torch.allclose(adapted.b_enc, sae.b_enc * norms, atol=1e-6)
    assert hasattr(adapted, "b_mag") == hasattr(sae, "b_mag")
    if hasattr(sae, "b_mag"):
        assert torch.allclose(adapted.b_mag, sae.b_mag * norms, atol=1e-6)


def test_what_the_caller_does_to_latents_stays_with_the_caller(pair):
    _, adapted = pair
    x = torch.randn(5, D)
    first, x_hat = adapted.encode(x), adapted(x)
    kept = first.clone()
    first[..., :] = 0.0
    assert torch.equal(adapted.encode(x), kept)
    assert torch.equal(adapted(x), x_hat)


def test_a_unit_decoder_is_left_alone():
    sae = TopKSAE(D, F, k=5)
    W_dec = sae.W_dec.detach().clone()
    adapted = SAEBenchSAE(sae, SCR)
    assert torch.equal(adapted.W_dec, W_dec)
    assert adapted.W_enc is sae.W_enc


def test_a_latent_without_a_direction_is_off():
    sae = randomized("standard")
    sae.W_dec[3] = 0.0
    sae.b_enc[3] = 100.0
    x = torch.randn(7, D)
    x_hat = sae(x)
    adapted = SAEBenchSAE(sae, SCR)
    acts = adapted.encode(x)
    assert not acts[:, 3].any() and adapted.W_dec.isfinite().all()
    assert torch.allclose(adapted.decode(acts), x_hat, atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_half_precision(name):
    torch.manual_seed(1)
    sae = randomized(name)
    x = torch.randn(64, D)
    expected = sae(x)
    adapted = SAEBenchSAE(sae, SCR).to(device="cpu", dtype=torch.bfloat16)
    assert (adapted.dtype, adapted.cfg.dtype) == (torch.bfloat16, "bfloat16")
    acts = adapted.encode(x)  # of whatever type x is
    assert acts.dtype == torch.bfloat16
    error = (adapted.decode(acts).float() - expected).square().sum()
    assert error < 0.02 * (expected - expected.mean(0)).square().sum()
    norms = adapted.W_dec.float().norm(dim=-1)
    assert torch.allclose(norms, torch.ones(F), atol=1e-2)


def test_the_observer_sees_inputs_and_latents():
    adapted, seen = SAEBenchSAE(TopKSAE(D, F, k=5), SCR), []
    adapted.observer = lambda x, acts: seen.append((x.clone(), acts.clone()))
    x = torch.randn(2, 3, D)
    acts = adapted.encode(x)
    adapted.observer = None
    adapted.encode(x)
    assert len(seen) == 1
    assert torch.equal(seen[0][0], x.view(-1, D)) and torch.equal(seen[0][1], acts.view(-1, F))


def test_the_config_holds_its_fields_and_not_what_is_added():
    config = SAEBenchSAE(TopKSAE(D, F, k=5), SCR).cfg
    config.metadata, config.exclude_special_tokens = object(), None
    assert set(config.to_dict()) == set(SAEBenchConfig.__dataclass_fields__)
    assert config.to_dict()["hook_layer"] == 12
    assert config.to_dict()["architecture"] == "topk"
