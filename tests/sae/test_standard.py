"""Standard (ReLU + L1)."""

import pytest
import torch

from temporal_sae.loss import l1_loss
from temporal_sae.sae import StandardSAE, StepContext


@pytest.fixture
def sae():
    torch.manual_seed(0)
    return StandardSAE(d_in=6, d_sae=24, l1_weight=0.5, l1_warmup_steps=4)


def test_sparse_and_dense_paths_agree(sae):
    x = torch.randn(10, 6)
    latents = sae.encode(x)
    dense = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
    assert torch.allclose(latents.to_dense(24), dense, atol=1e-6)
    assert torch.allclose(sae.decode(latents), sae(x), atol=1e-5)
    assert latents.values.shape[1] == (dense > 0).sum(-1).max()
    assert ((latents.indices == -1) == (latents.values == 0)).all()


def test_l1_grows_over_the_warm_up(sae):
    x = torch.randn(10, 6)
    full = 0.5 * l1_loss(sae.encode_dense(x), sae.W_dec).item()
    for step, share in ((0, 0.25), (1, 0.5), (3, 1.0), (100, 1.0)):
        out = sae.training_step(x, StepContext(step))
        assert out.terms["l1"].item() == pytest.approx(share * full, rel=1e-5)


def test_a_batch_without_any_active_latent(sae):
    sae.b_enc.data.fill_(-100)
    latents = sae.encode(torch.randn(3, 6))
    assert latents.indices.tolist() == [[-1]] * 3
    assert torch.equal(sae.decode(latents), sae.b_dec.expand(3, 6))
