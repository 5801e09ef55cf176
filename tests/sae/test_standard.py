"""Standard (ReLU + L1), with a unit and with a free decoder."""

import pytest
import torch

from temporal_sae.errors import InvalidOption
from temporal_sae.sae import StandardSAE, StepContext


@pytest.fixture
def sae():
    torch.manual_seed(0)
    return StandardSAE(d_in=6, d_sae=24, l1_weight=0.5, l1_warmup_steps=4)


def test_function_against_its_definition(sae):
    x = torch.randn(10, 6)
    sae.b_dec.data.normal_()
    latents = sae.encode(x)
    dense = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
    assert torch.allclose(latents.to_dense(24), dense, atol=1e-6)
    assert torch.allclose(sae.decode(latents), sae(x), atol=1e-5)
    assert latents.values.shape[1] == (dense > 0).sum(-1).max()
    assert ((latents.indices == -1) == (latents.values == 0)).all()


@pytest.mark.parametrize("way", [True, False, None])
@pytest.mark.parametrize("decoder", ["unit", "free"])
def test_a_step_by_hand(way, decoder):
    sae = StandardSAE(2, 2, l1_weight=0.5, decoder=decoder)
    sae.W_enc.data = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    sae.W_dec.data = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    out = sae.training_step(torch.tensor([[2.0, -1.0], [4.0, 7.0]]), StepContext(0, None, way))
    assert torch.allclose(out.x_hat, torch.tensor([[6.0, 10.0], [12.0, 16.0]]))
    # ((2 · 5 + 1 · 2) + 4 · 5) / 2 = 16
    assert out.terms["l1"].item() == pytest.approx(0.5 * 16)
    assert float(out.l0) == 1.5
    out.terms["l1"].backward()
    # λ E f_i d_i/‖d_i‖ and λ E 1[f_i > 0] ‖d_i‖
    assert torch.allclose(sae.W_dec.grad, 0.5 * torch.tensor([[1.8, 2.4], [0.0, 0.5]]))
    assert torch.allclose(sae.b_enc.grad, 0.5 * torch.tensor([5.0, 1.0]))


def test_l1_grows_over_the_warm_up(sae):
    x = torch.randn(10, 6)
    full = 0.5 * (sae.encode_dense(x) @ sae.W_dec.norm(dim=-1)).mean().item()
    for step, share in ((0, 0.25), (1, 0.5), (3, 1.0), (100, 1.0)):
        for way in (True, False):
            out = sae.training_step(x, StepContext(step, None, way))
            assert out.terms["l1"].item() == pytest.approx(share * full, rel=1e-5)


def test_which_decoder_is_unit():
    assert StandardSAE(4, 8).unit_decoder
    assert not StandardSAE(4, 8, decoder="free").unit_decoder
    assert StandardSAE(4, 8).unit_decoder  # the one does not change the other


def test_a_batch_without_any_active_latent(sae):
    sae.b_enc.data.fill_(-100)
    latents = sae.encode(torch.randn(3, 6))
    assert latents.indices.tolist() == [[-1]] * 3
    assert torch.equal(sae.decode(latents), sae.b_dec.expand(3, 6))


@pytest.mark.parametrize(
    "options",
    [
        {"l1_weight": -1},
        {"l1_weight": float("nan")},
        {"l1_weight": 10**400},
        {"l1_warmup_steps": -1},
        {"l1_warmup_steps": 0.5},
        {"decoder": "fixed"},
        {"resample_every": 0},
        {"resample_every": "often"},
        {"d_sae": 0},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidOption) as raised:
        StandardSAE(**{"d_in": 4, "d_sae": 24, **options})
    assert raised.value.option == next(iter(options))
