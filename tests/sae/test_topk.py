"""TopK: the function, its sparse form, its gradients."""

import pytest
import torch

from temporal_sae.errors import InvalidOption
from temporal_sae.sae import StepContext, TopKSAE


@pytest.fixture
def sae():
    torch.manual_seed(0)
    sae = TopKSAE(d_in=6, d_sae=24, k=4)
    sae.b_dec.data = torch.randn(6)
    sae.b_enc.data = 0.1 * torch.randn(24)
    return sae


def test_starts_tied_with_unit_rows():
    sae = TopKSAE(d_in=6, d_sae=24, k=4)
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert torch.allclose(sae.W_dec.norm(dim=-1), torch.ones(24))


def test_function_against_its_definition(sae):
    x = torch.randn(10, 6)
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    expected = torch.zeros_like(pre)
    for row in range(10):
        top = pre[row].argsort(descending=True)[:4]
        expected[row, top] = pre[row, top].clamp(min=0)
    assert torch.allclose(sae.encode_dense(x), expected)
    assert torch.allclose(sae(x), expected @ sae.W_dec + sae.b_dec, atol=1e-6)


def test_sparse_and_dense_paths_agree(sae):
    x = torch.randn(10, 6)
    latents = sae.encode(x)
    assert latents.values.shape == latents.indices.shape == (10, 4)
    assert torch.allclose(latents.to_dense(24), sae.encode_dense(x))
    assert torch.allclose(sae.decode(latents), sae(x), atol=1e-6)


def test_a_slot_that_is_not_positive_is_not_active():
    sae = TopKSAE(d_in=2, d_sae=3, k=3)
    sae.W_enc.data = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    latents = sae.encode(torch.tensor([[1.0, 0.0]]))
    assert sorted(latents.active_indices().tolist()[0]) == [-1, -1, 0]
    assert float(latents.l0()) == 1


def test_training_step_matches_inference_and_adds_no_term_without_dead_latents(sae):
    x = torch.randn(10, 6)
    out = sae.training_step(x, StepContext(step=0))
    assert torch.allclose(out.x_hat, sae(x), atol=1e-6)
    assert out.terms == {}


def test_auxk_reaches_the_encoder(sae):
    dead = torch.arange(24) < 6
    out = sae.training_step(torch.randn(32, 6), StepContext(step=0, dead=dead))
    out.terms["auxk"].backward()
    assert (sae.W_enc.grad[:, :6].abs().sum(0) > 0).any()
    assert (sae.W_enc.grad[:, 6:] == 0).all()


def test_decoder_constraint(sae):
    x = torch.randn(32, 6)
    (sae(x) - x).square().sum().backward()
    sae.remove_parallel_gradient()
    assert (sae.W_dec.grad * sae.W_dec).sum(-1).abs().max() < 1e-4
    sae.W_dec.data *= 3
    sae.normalize_decoder()
    assert torch.allclose(sae.W_dec.norm(dim=-1), torch.ones(24), atol=1e-6)


def test_fold_input_scale(sae):
    x, scale = torch.randn(10, 6), 7.0
    scaled = sae(x / scale) * scale
    sae.fold_input_scale(scale)
    assert torch.allclose(sae(x), scaled, atol=1e-5)


def test_learning_rate_rule():
    assert TopKSAE(4, 2**14, 4).default_lr() == pytest.approx(2e-4)
    assert TopKSAE(4, 18432, 4).default_lr() == pytest.approx(0.0001885618083164127)
    assert TopKSAE(4, 4608, 4).default_lr() == pytest.approx(0.0003771236166328254)


@pytest.mark.parametrize("options", [{"k": 25}, {"k": 0}, {"k": 2.5}, {"auxk_weight": -1}])
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        TopKSAE(**{"d_in": 4, "d_sae": 24, "k": 4, **options})
