"""Gated: gate and magnitude, and an auxiliary reconstruction that leaves the decoder alone."""

import pytest
import torch

from temporal_sae.errors import InvalidOption
from temporal_sae.loss import reconstruction_loss
from temporal_sae.sae import GatedSAE, StepContext

WAYS = pytest.mark.parametrize("way", [True, False, None])


def by_hand(**options):
    """u = (x, 2x); the gates are u + (-1, -1), the magnitudes (u, u/2 + 3)."""
    sae = GatedSAE(1, 2, **options)
    sae.W_enc.data = torch.tensor([[1.0, 2.0]])
    sae.b_enc.data = torch.tensor([-1.0, -1.0])
    sae.r_mag.data = torch.tensor([1.0, 0.5]).log()
    sae.b_mag.data = torch.tensor([0.0, 3.0])
    sae.W_dec.data = torch.tensor([[1.0], [-1.0]])
    return sae


X = torch.tensor([[2.0], [0.5], [-4.0]])


@WAYS
def test_the_function_by_hand(way):
    sae = by_hand()
    # gates: 1 3 | -0.5 0 | -5 -9; magnitudes: 2 5 | …
    expected = torch.tensor([[2.0, 5.0], [0.0, 0.0], [0.0, 0.0]])
    assert torch.allclose(sae.encode_dense(X), expected)
    out = sae.training_step(X, StepContext(0, None, way))
    assert torch.allclose(out.latents.to_dense(2), expected)
    assert torch.allclose(out.x_hat, torch.tensor([[-3.0], [0.0], [0.0]]))
    assert float(out.l0) == pytest.approx(2 / 3)


@WAYS
def test_an_open_gate_before_a_magnitude_below_zero_is_not_active(way):
    sae = by_hand()
    sae.b_mag.data = torch.tensor([-5.0, 3.0])
    out = sae.training_step(X[:1], StepContext(0, None, way))
    assert out.latents.to_dense(2)[0].tolist() == pytest.approx([0, 5])
    assert out.fired.tolist() == [False, True]
    assert float(out.l0) == 1
    assert out.latents.active_indices()[0].tolist().count(0) == 0
    assert sae.encode(X[:1]).indices.tolist() == [[1]]


@WAYS
def test_the_terms_by_hand(way):
    sae = by_hand(l1_weight=0.5, aux_reconstruction="sse")
    sae.W_dec.data = torch.tensor([[3.0], [-1.0]])
    sae.b_dec.data = torch.tensor([0.0])
    terms = sae.training_step(X, StepContext(0, None, way)).terms
    # ReLU(π): 1 3 | 0 0 | 0 0
    assert terms["l1"].item() == pytest.approx(0.5 * (1 * 3 + 3 * 1) / 3)
    # it rebuilds 3 - 3 = 0, 0 and 0
    assert terms["gate_reconstruction"].item() == pytest.approx((4 + 0.25 + 16) / 3)


@WAYS
@pytest.mark.parametrize("kind", ["fvu", "sse", "norm"])
def test_the_auxiliary_reconstruction_leaves_the_decoder_alone(way, kind):
    torch.manual_seed(0)
    sae = GatedSAE(6, 20, aux_reconstruction=kind)
    sae.b_dec.data.normal_()
    x = torch.randn(9, 6)
    out = sae.training_step(x, StepContext(0, None, way))
    out.terms["gate_reconstruction"].backward()
    assert sae.W_dec.grad is None or (sae.W_dec.grad == 0).all()
    for name in ("r_mag", "b_mag"):
        gradient = getattr(sae, name).grad
        assert gradient is None or (gradient == 0).all()
    assert (sae.b_enc.grad != 0).any()
    # b_dec is frozen where it is added back, not where it is taken off before the encoder
    gate = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
    loss = reconstruction_loss(kind, x, gate @ sae.W_dec.detach() + sae.b_dec.detach())
    expected = torch.autograd.grad(loss, [sae.W_enc, sae.b_enc, sae.b_dec])
    for name, gradient in zip(("W_enc", "b_enc", "b_dec"), expected, strict=True):
        assert torch.allclose(getattr(sae, name).grad, gradient, rtol=1e-3, atol=1e-5), name


@WAYS
def test_what_the_reconstruction_proper_trains(way):
    """The gate has no slope; the magnitude has, by r_mag, b_mag and the shared encoder."""
    sae = by_hand()
    sae.training_step(X, StepContext(0, None, way)).x_hat.sum().backward()
    assert torch.allclose(sae.r_mag.grad, torch.tensor([2.0, -2.0]))  # u e^r · (±1)
    assert torch.allclose(sae.b_mag.grad, torch.tensor([1.0, -1.0]))
    assert torch.allclose(sae.b_enc.grad, torch.zeros(2), atol=1e-6)
    assert torch.allclose(sae.W_enc.grad, torch.tensor([[2.0, -1.0]]))


def test_l1_grows_over_the_warm_up():
    sae = by_hand(l1_weight=0.5, l1_warmup_steps=4)
    full = by_hand(l1_weight=0.5).training_step(X, StepContext(0)).terms["l1"]
    for step, share in ((0, 0.25), (1, 0.5), (3, 1.0), (100, 1.0)):
        terms = sae.training_step(X, StepContext(step)).terms
        assert terms["l1"].item() == pytest.approx(share * float(full))


def test_tied_at_the_start_it_is_a_relu():
    sae = GatedSAE(6, 20)
    x = torch.randn(9, 6)
    assert torch.allclose(sae.encode_dense(x), ((x - sae.b_dec) @ sae.W_enc).relu())


@pytest.mark.parametrize(
    "options",
    [
        {"l1_weight": -1},
        {"l1_warmup_steps": -1},
        {"l1_warmup_steps": 1.5},
        {"aux_reconstruction": "mse"},
        {"d_sae": 0},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidOption) as raised:
        GatedSAE(**{"d_in": 4, "d_sae": 24, **options})
    assert raised.value.option == next(iter(options))
