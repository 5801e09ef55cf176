"""JumpReLU: the jump, and the straight-through estimates of arXiv 2407.14435."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption
from temporal_sae.sae import JumpReLUSAE, StepContext

WAYS = pytest.mark.parametrize("way", [True, False, None])


def showing(columns, thresholds, rows=None, **options):
    """An SAE whose pre-activations are its input times `columns`; one feature."""
    sae = JumpReLUSAE(1, len(columns), **options)
    sae.W_enc.data = torch.tensor([columns])
    sae.W_dec.data = torch.tensor(rows or [[1.0]] * len(columns))
    sae.threshold.data = torch.tensor(thresholds)
    return sae


@WAYS
def test_the_jump_by_hand(way):
    sae = showing([1.0, 2.0, -1.0], [1.0, 1.0, 0.0])
    x = torch.tensor([[1.0], [0.5], [-3.0]])
    expected = [[0, 2, 0], [0, 0, 0], [0, 0, 3]]  # exactly at the threshold: off
    assert sae.encode_dense(x).tolist() == expected
    out = sae.training_step(x, StepContext(0, None, way))
    assert out.latents.to_dense(3).tolist() == expected
    assert float(out.l0) == pytest.approx(2 / 3)
    assert out.fired.tolist() == [False, True, True]


@WAYS
def test_theta_learns_from_what_is_near_it_on_both_sides(way):
    """ε = 1: z of 1.4 and 0.6 are within half of it of θ = 1, 1.6 and 0.4 are not."""
    sae = showing([1.0], [1.0], [[3.0]], bandwidth=1.0)
    near = []
    for z in (1.4, 0.6, 1.6, 0.4):
        sae.zero_grad()
        sae.training_step(torch.tensor([[z]]), StepContext(0, None, way)).x_hat.sum().backward()
        near.append(sae.threshold.grad.item())
    # ∂x̂/∂θ = 3 · (-θ/ε)
    assert near == [-3.0, -3.0, 0.0, 0.0]


@WAYS
def test_the_sparsity_term_by_hand(way):
    sae = showing([1.0, 2.0], [1.0, 1.0], bandwidth=0.5, l0_target=4.0, l0_weight=2.0)
    x = torch.tensor([[0.9], [1.2]])  # z: 0.9 1.8 | 1.2 2.4
    out = sae.training_step(x, StepContext(0, None, way))
    l0 = 3 / 2
    assert out.terms["l0"].item() == pytest.approx(2 * (l0 / 4 - 1) ** 2)
    out.terms["l0"].backward()
    # slope by L0: 2 · 2 (l0/4 - 1)/4; by θ of latent 0, near in both tokens: E -1/ε = -2
    slope = 4 * (l0 / 4 - 1) / 4
    assert sae.threshold.grad.tolist() == pytest.approx([slope * -2, 0.0])
    for name in ("W_enc", "b_enc", "b_dec", "W_dec"):  # it moves θ and nothing else
        gradient = getattr(sae, name).grad
        assert gradient is None or (gradient == 0).all(), name


@WAYS
def test_without_a_target_l0_itself_is_penalised(way):
    sae = showing([1.0, 2.0], [1.0, 1.0], bandwidth=0.5, l0_target=None, l0_weight=0.1)
    out = sae.training_step(torch.tensor([[0.9], [1.2]]), StepContext(0, None, way))
    assert out.terms["l0"].item() == pytest.approx(0.15)
    out.terms["l0"].backward()
    assert sae.threshold.grad.tolist() == pytest.approx([-0.2, 0.0])


@WAYS
def test_the_encoder_learns_as_behind_a_relu_that_is_on(way):
    sae = showing([1.0, 2.0], [1.0, 1.0], [[1.0], [5.0]], bandwidth=10.0)
    x = torch.tensor([[0.9]])
    sae.training_step(x, StepContext(0, None, way)).x_hat.sum().backward()
    assert sae.b_enc.grad.tolist() == [0.0, 5.0]
    assert sae.W_enc.grad[0].tolist() == pytest.approx([0.0, 4.5])


@WAYS
def test_latents_below_zero_are_no_candidates(way):
    """θ is not below 0, so what is there cannot become active by moving it."""
    sae = showing([1.0, -1.0], [0.1, 0.1], bandwidth=1.0, l0_target=None)
    out = sae.training_step(torch.tensor([[0.2]]), StepContext(0, None, way))
    (out.terms["l0"] + out.x_hat.sum()).backward()
    assert sae.threshold.grad.tolist() == pytest.approx([-1.0 - 0.1, 0.0])


def test_the_weight_grows_over_the_warm_up():
    sae = showing([1.0, 2.0], [1.0, 1.0], l0_target=None, l0_weight=3.0, l0_warmup_steps=4)
    x = torch.tensor([[0.9], [1.2]])
    for step, share in ((0, 0.25), (2, 0.75), (3, 1.0), (9, 1.0)):
        out = sae.training_step(x, StepContext(step))
        assert out.terms["l0"].item() == pytest.approx(3 * share * 1.5)


def test_thresholds_are_kept_at_zero_or_above():
    sae = showing([1.0, 1.0], [-0.5, 0.5])
    x = torch.randn(4, 1)
    out = sae.training_step(x, StepContext(0))
    assert sae.after_step(x, out, StepContext(0)) is None
    assert sae.threshold.tolist() == [0.0, 0.5]


@given(st.floats(0.05, 0.5), st.floats(0.05, 1), st.integers(0, 1000))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_estimate_is_the_slope_of_l0_smoothed_by_the_kernel(bandwidth, theta, seed):
    """dE L0/dθ is minus the density of z at θ, here of many z spread evenly over (0, 4)."""
    theta = max(theta, bandwidth / 2)
    sae = showing([1.0], [theta], bandwidth=bandwidth, l0_target=None)
    torch.manual_seed(seed)
    x = (torch.arange(20_000) + torch.rand(1)).mul(4 / 20_000)[:, None]
    sae.training_step(x, StepContext(0)).terms["l0"].backward()
    assert float(sae.threshold.grad) == pytest.approx(-1 / 4, rel=0.01)


def test_training_reaches_its_target():
    """The estimate alone moves θ until L0 is what was asked for."""
    torch.manual_seed(0)
    sae = JumpReLUSAE(16, 64, l0_target=6.0, initial_threshold=0.1, bandwidth=0.2)
    before = float(sae.encode(torch.randn(500, 16)).l0())
    optimizer = torch.optim.Adam([sae.threshold], lr=0.02)
    for step in range(300):
        x = torch.randn(64, 16)
        out = sae.training_step(x, StepContext(step))
        optimizer.zero_grad()
        out.terms["l0"].backward()
        optimizer.step()
        sae.after_step(x, out, StepContext(step))
    assert before > 20
    assert float(sae.encode(torch.randn(2000, 16)).l0()) == pytest.approx(6, rel=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"l0_target": 0},
        {"l0_target": -3},
        {"l0_weight": -1},
        {"l0_warmup_steps": -1},
        {"initial_threshold": -0.1},
        {"initial_threshold": "low"},
        {"bandwidth": 0},
        {"bandwidth": float("inf")},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidOption) as raised:
        JumpReLUSAE(**{"d_in": 4, "d_sae": 24, **options})
    assert raised.value.option == next(iter(options))
