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


def test_function_against_its_definition(sae):
    x = torch.randn(10, 6)
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    expected = torch.zeros_like(pre)
    for row in range(10):
        top = pre[row].argsort(descending=True)[:4]
        expected[row, top] = pre[row, top].clamp(min=0)
    assert torch.allclose(sae.encode_dense(x), expected, atol=1e-6)
    assert torch.allclose(sae(x), expected @ sae.W_dec + sae.b_dec, atol=1e-5)


def test_every_token_has_k_slots(sae):
    latents = sae.encode(torch.randn(10, 6))
    assert latents.values.shape == latents.indices.shape == (10, 4)
    out = sae.training_step(torch.randn(10, 6), StepContext(0))
    assert out.latents.values.shape == (10, 4)


def by_hand():
    """Pre-activations of (1, 0) are 1, -1 and 0; those of (0, 2) are 0, 0 and 2."""
    sae = TopKSAE(d_in=2, d_sae=3, k=3)
    sae.W_enc.data = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    sae.W_dec.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    return sae, torch.tensor([[1.0, 0.0], [0.0, 2.0]])


def test_a_slot_that_is_not_positive_is_empty():
    sae, x = by_hand()
    latents = sae.encode(x)
    assert sorted(latents.indices.tolist()[0]) == [-1, -1, 0]
    assert sorted(latents.indices.tolist()[1]) == [-1, -1, 2]
    assert sorted(latents.values.tolist()[1]) == [0, 0, 2]
    assert torch.equal(latents.active_indices(), latents.indices)
    assert float(latents.l0()) == 1
    assert torch.allclose(sae.decode(latents), torch.tensor([[1.0, 0.0], [1.2, 1.6]]))


@pytest.mark.parametrize("way", [True, False, None])
def test_a_step_by_hand(way):
    sae, x = by_hand()
    out = sae.training_step(x, StepContext(0, None, way))
    assert torch.allclose(out.x_hat, torch.tensor([[1.0, 0.0], [1.2, 1.6]]))
    assert out.fired.tolist() == [True, False, True]
    assert float(out.l0) == 1
    assert out.terms == {}
    assert out.partial == ()
    out.x_hat.sum().backward()
    # ∂/∂W_dec[i] = Σ_t f_ti (1, 1); ∂/∂W_enc[:, i] = Σ_t x_t Σ_j W_dec[i, j] over active i
    assert torch.allclose(sae.W_dec.grad, torch.tensor([[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]))
    assert torch.allclose(sae.b_enc.grad, torch.tensor([1.0, 0.0, 1.4]))
    assert torch.allclose(sae.W_enc.grad, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.8]]))
    # 2 tokens, less what reaches it through the two active pre-activations
    assert torch.allclose(sae.b_dec.grad, torch.tensor([2.0 - 1.0, 2.0 - 1.4]))


@pytest.mark.parametrize("way", [True, False, None])
def test_of_equal_pre_activations_the_first_are_kept(way):
    """Not more than k, however many are equal, and the same ones in training and inference."""
    sae = TopKSAE(d_in=1, d_sae=6, k=2)
    sae.W_enc.data = torch.tensor([[1.0, 2.0, 1.0, -1.0, 1.0, 0.0]])
    x = torch.tensor([[3.0]])
    out = sae.training_step(x, StepContext(0, None, way))
    assert sorted(out.latents.indices.tolist()[0]) == [0, 1]
    assert sae.encode_dense(x).tolist() == [[3.0, 6.0, 0.0, 0.0, 0.0, 0.0]]


def test_k_of_all_latents_is_a_relu(sae):
    whole = TopKSAE(6, 24, k=24)
    whole.load_state_dict(sae.state_dict())
    x = torch.randn(10, 6)
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    assert torch.allclose(whole.encode_dense(x), pre.relu(), atol=1e-6)


def test_training_step_matches_inference(sae):
    x = torch.randn(10, 6)
    out = sae.training_step(x, StepContext(step=0))
    assert torch.allclose(out.x_hat, sae(x), atol=1e-6)


@pytest.mark.parametrize("way", [True, False])
def test_auxk_is_weighted_and_by_hand(way):
    sae, x = by_hand()
    sae.k, sae.k_aux, sae.auxk_weight = 1, 1, 0.25
    dead = torch.tensor([False, True, True])
    out = sae.training_step(x, StepContext(0, dead, way))
    # Token 0 is rebuilt as (1, 0), token 1 as (1.2, 1.6): residuals (0, 0) and (-1.2, 0.4).
    # Latent 2 rebuilds the second as (1.2, 1.6), off by (2.4, 1.2), while nothing dead fires on
    # the first; the variance of the residuals is 1.6/2 - 1.6/4.
    error = (0 + 2.4**2 + 1.2**2) / 2
    assert out.terms["auxk"].item() == pytest.approx(0.25 * error / 0.4, rel=1e-5)


def test_learning_rate_rule():
    assert TopKSAE(4, 2**14, 4).default_lr() == pytest.approx(2e-4)
    assert TopKSAE(4, 18432, 4).default_lr() == pytest.approx(0.0001885618083164127)
    assert TopKSAE(4, 4608, 4).default_lr() == pytest.approx(0.0003771236166328254)


def test_k_aux_is_half_the_width_and_at_most_all_latents():
    assert TopKSAE(d_in=10, d_sae=24, k=4).k_aux == 5
    assert TopKSAE(d_in=1, d_sae=24, k=4).k_aux == 1
    assert TopKSAE(d_in=100, d_sae=24, k=4).k_aux == 24
    assert TopKSAE(d_in=10, d_sae=24, k=4, k_aux=7).k_aux == 7


@pytest.mark.parametrize(
    "options",
    [
        {"k": 25},
        {"k": 0},
        {"k": 2.5},
        {"k": True},
        {"auxk_weight": -1},
        {"auxk_weight": "much"},
        {"k_aux": 0},
        {"k_aux": 25},
        {"k_aux": 1.5},
        {"d_sae": 0},
        {"d_in": 0},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=next(iter(options))) as raised:
        TopKSAE(**{"d_in": 4, "d_sae": 24, "k": 4, **options})
    assert raised.value.option == next(iter(options))
