"""Reconstruction, sparsity and AuxK against numbers computed by hand."""

import pytest
import torch

from temporal_sae.loss import auxk_loss, l1_loss, reconstruction_loss
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


def test_l1_weighs_latents_by_their_decoder_norm():
    acts = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    W_dec = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert float(l1_loss(acts, W_dec)) == ((1 + 6) + 12) / 2


def test_auxk_by_hand():
    residual = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    pre_acts = torch.tensor([[9.0, 1.0, 0.5], [9.0, -1.0, -2.0]])
    dead = torch.tensor([False, True, True])
    W_dec = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    # k_aux 1: the first token is explained by latent 1 with 1, the second by nothing
    # errors 1 and 4, mean 2.5, variance of the residual 4
    assert float(auxk_loss(residual, pre_acts, dead, W_dec, 1)) == pytest.approx(2.5 / 4)


def test_auxk_is_weaker_while_few_are_dead():
    residual, pre_acts = torch.randn(8, 4), torch.randn(8, 6)
    dead = torch.tensor([True, False, False, False, False, False])
    W_dec = torch.nn.functional.normalize(torch.randn(6, 4), dim=-1)
    full, weak = (auxk_loss(residual, pre_acts, dead, W_dec, k) for k in (1, 4))
    assert float(weak) == pytest.approx(float(full) / 4)


def test_auxk_trains_encoder_and_decoder_of_dead_latents_only():
    residual = torch.randn(16, 4, requires_grad=True)
    pre_acts = torch.randn(16, 6, requires_grad=True)
    W_dec = torch.randn(6, 4, requires_grad=True)
    dead = torch.tensor([True, True, False, False, True, False])
    auxk_loss(residual, pre_acts, dead, W_dec, 2).backward()
    assert residual.grad is None
    for gradient in (pre_acts.grad.abs().sum(0), W_dec.grad.abs().sum(1)):
        assert (gradient[dead] > 0).all()
        assert (gradient[~dead] == 0).all()
