"""Resampling: dead latents start anew at what is badly reconstructed."""

import pytest
import torch

from temporal_sae.sae import StandardSAE, StepContext
from temporal_sae.sae.resampling import resample

DEAD = torch.tensor([True, False, True, False, False])


@pytest.fixture
def sae():
    torch.manual_seed(0)
    sae = StandardSAE(3, 5, resample_every=4)
    sae.b_dec.data = torch.tensor([1.0, 0.0, 0.0])
    sae.b_enc.data = torch.arange(5.0)
    sae.W_enc.data *= torch.tensor([100.0, 1.0, 100.0, 2.0, 3.0])
    return sae


def test_a_dead_latent_points_at_the_token_that_is_rebuilt_worst(sae):
    """All other tokens are rebuilt exactly."""
    before = {name: p.clone() for name, p in sae.named_parameters()}
    x = torch.randn(4, 3)
    x[2] = torch.tensor([1.0, 3.0, 4.0])
    x_hat = x.clone()
    x_hat[2] = 0.0
    resample(sae, x, x_hat, DEAD)
    direction = torch.tensor([0.0, 0.6, 0.8])
    for latent in (0, 2):
        assert torch.allclose(sae.W_dec[latent], direction)
        # 0.2 of the mean norm of the living: (1 + 2 + 3) / 3
        assert torch.allclose(sae.W_enc[:, latent], 0.4 * direction)
        assert sae.b_enc[latent] == 0
    for latent in (1, 3, 4):
        assert torch.equal(sae.W_dec[latent], before["W_dec"][latent])
        assert torch.equal(sae.W_enc[:, latent], before["W_enc"][:, latent])
        assert sae.b_enc[latent] == before["b_enc"][latent]
    assert torch.equal(sae.b_dec, before["b_dec"])
    assert sae.W_enc.T.is_contiguous()


def test_tokens_are_drawn_by_the_square_of_their_squared_error():
    """Errors 1 and 3: odds 1 to 81."""
    torch.manual_seed(0)
    sae = StandardSAE(2, 10_000)
    x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    resample(sae, x, torch.zeros(2, 2), torch.ones(10_000, dtype=torch.bool))
    assert float(sae.W_dec[:, 0].mean()) == pytest.approx(1 / 82, rel=0.3)
    assert torch.allclose(sae.W_dec.norm(dim=-1), torch.ones(10_000))


@pytest.mark.parametrize("dead", [torch.zeros(5, dtype=torch.bool), DEAD])
def test_a_batch_rebuilt_exactly_does_no_harm(sae, dead):
    x = torch.randn(4, 3)
    resample(sae, x, x, dead)
    assert all(torch.isfinite(p).all() for p in sae.parameters())
    alive = sae.W_dec[~dead].norm(dim=-1)
    assert torch.allclose(alive, torch.ones_like(alive))


def test_all_dead_leaves_something_that_is_finite(sae):
    resample(sae, torch.randn(4, 3), torch.randn(4, 3), torch.ones(5, dtype=torch.bool))
    assert all(torch.isfinite(p).all() for p in sae.parameters())
    assert torch.allclose(sae.W_dec.norm(dim=-1), torch.ones(5))


def test_all_dead_have_an_encoder_that_can_learn(sae):
    """An encoder of zeros gives pre-activations of exactly 0, which no gradient ever moves."""
    x = torch.randn(64, 3)
    resample(sae, x, torch.zeros_like(x), torch.ones(5, dtype=torch.bool))
    assert (sae.encode_dense(x) > 0).any()


def test_it_is_due_every_so_many_steps_and_tells_which(sae):
    x = torch.randn(6, 3)
    out = sae.training_step(x, StepContext(0))
    before = sae.W_dec.clone()
    for step in (0, 1, 2, 4, 5, 6):
        assert sae.after_step(x, out, StepContext(step, DEAD)) is None
    assert sae.after_step(x, out, StepContext(3)) is None  # none is dead
    assert torch.equal(sae.W_dec, before)
    for step in (3, 7):
        renewed = sae.after_step(x, out, StepContext(step, DEAD))
        assert torch.equal(renewed, DEAD)
    assert not torch.equal(sae.W_dec, before)


def test_never_unless_asked_for():
    sae, x = StandardSAE(3, 5), torch.randn(6, 3)
    out = sae.training_step(x, StepContext(0))
    assert all(sae.after_step(x, out, StepContext(step, DEAD)) is None for step in range(20))


def test_the_same_seed_draws_the_same(sae):
    x = torch.randn(6, 3)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        resample(sae, x, torch.zeros_like(x), DEAD)
        drawn.append(sae.W_dec.clone())
    assert torch.equal(*drawn)
