"""Reconstruction, sparsity and AuxK against numbers computed by hand."""

import pytest
import torch

from temporal_sae.loss import auxk_loss, reconstruction_loss
from temporal_sae.loss.terms import variance

X = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])


def test_reconstruction_kinds():
    x_hat = X + torch.tensor([3.0, 4.0])
    assert float(reconstruction_loss("sse", X, x_hat)) == 25
    assert float(reconstruction_loss("norm", X, x_hat)) == 5
    assert float(variance(X)) == 5
    assert float(reconstruction_loss("fvu", X, x_hat)) == 5


def test_fvu_is_zero_for_a_copy_and_one_for_the_mean():
    assert float(reconstruction_loss("fvu", X, X)) == 0
    assert float(reconstruction_loss("fvu", X, X.mean(0).expand_as(X))) == pytest.approx(1)


def test_constant_input_does_not_divide_by_zero():
    constant = torch.ones(3, 2)
    assert torch.isfinite(reconstruction_loss("fvu", constant, constant))


def latents_of(d_in, d_sae):
    """W_enc, b_enc, b_dec and W_dec, all with gradients."""
    shapes = ((d_in, d_sae), (d_sae,), (d_in,), (d_sae, d_in))
    return tuple(torch.randn(shape, requires_grad=True) for shape in shapes)


def test_auxk_by_hand():
    x = torch.tensor([[3.0, 1.0], [-1.0, 1.0]])
    x_hat = torch.tensor([[1.0, 1.0], [1.0, 1.0]])  # residuals (2, 0) and (-2, 0)
    b_dec = torch.tensor([1.0, 0.0])
    # centered: (2, 1) and (-2, 1); pre-activations 9 1 0.5 | 9 -1 -1.5
    W_enc = torch.tensor([[0.0, 0.5, 0.5], [9.0, 0.0, 0.0]])
    b_enc = torch.tensor([0.0, 0.0, -0.5])
    W_dec = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    dead = torch.tensor([False, True, True])
    parameters = (W_enc, b_enc, b_dec, W_dec)
    # k_aux 1: the first token is explained by latent 1 with 1, the second by nothing;
    # errors 1 and 4, mean 2.5, variance of the residual 4
    assert float(auxk_loss(x, x_hat, dead, parameters, 1)) == pytest.approx(2.5 / 4)
    # k_aux 2: latent 2 adds (0, 0.5) to the first
    assert float(auxk_loss(x, x_hat, dead, parameters, 2)) == pytest.approx((1.25 + 4) / 2 / 4)
    # k_aux 4: the same, at half the weight
    assert float(auxk_loss(x, x_hat, dead, parameters, 4)) == pytest.approx((1.25 + 4) / 2 / 8)


def test_auxk_is_weaker_while_few_are_dead():
    x, x_hat, parameters = torch.randn(8, 4), torch.randn(8, 4), latents_of(4, 6)
    dead = torch.tensor([True, False, False, False, False, False])
    full, weak = (auxk_loss(x, x_hat, dead, parameters, k).item() for k in (1, 4))
    assert weak == pytest.approx(full / 4)


@pytest.mark.parametrize("k_aux", [1, 2, 3, 10])
def test_auxk_trains_encoder_and_decoder_of_dead_latents_only(k_aux):
    x = torch.randn(64, 4, requires_grad=True)
    x_hat = torch.randn(64, 4, requires_grad=True)
    W_enc, b_enc, b_dec, W_dec = parameters = latents_of(4, 6)
    dead = torch.tensor([True, True, False, False, True, False])
    auxk_loss(x, x_hat, dead, parameters, k_aux).backward()
    for constant in (x, x_hat, b_dec):
        assert constant.grad is None or (constant.grad == 0).all()
    for gradient in (W_enc.grad.abs().sum(0), b_enc.grad.abs(), W_dec.grad.abs().sum(1)):
        assert (gradient[dead] > 0).all()
        assert (gradient[~dead] == 0).all()


@pytest.mark.parametrize("n_dead", [0, 1, 6])
def test_auxk_with_none_or_all_dead(n_dead):
    x, parameters = torch.randn(8, 4), latents_of(4, 6)
    dead = torch.arange(6) < n_dead
    loss = auxk_loss(x, torch.zeros(8, 4), dead, parameters, 3)
    assert torch.isfinite(loss)
    assert (float(loss.detach()) > 0) == (n_dead > 0)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in parameters)


def test_auxk_of_a_perfect_reconstruction_is_finite():
    x, parameters = torch.randn(8, 4), latents_of(4, 6)
    loss = auxk_loss(x, x, torch.ones(6, dtype=torch.bool), parameters, 3)
    assert torch.isfinite(loss)
