"""SAEAdam: torch's Adam between a projection and a renormalisation, and nothing else."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_

from temporal_sae.sae import GatedSAE, JumpReLUSAE, StandardSAE, StepContext, TopKSAE
from temporal_sae.training import Checkpoints
from temporal_sae.training.optimizer import SAEAdam

SAES = {
    "unit": lambda d, f: TopKSAE(d, f, max(1, f // 4)),
    "free": lambda d, f: StandardSAE(d, f, 0.1, decoder="free"),
    "unit, with thresholds": lambda d, f: JumpReLUSAE(d, f, initial_threshold=0.1, bandwidth=0.2),
    "unit, with magnitudes": lambda d, f: GatedSAE(d, f, 0.1),
}


def backward(sae, x, way=None):
    out = sae.training_step(x, StepContext(0, None, way))
    sae.zero_grad()
    ((x - out.x_hat).square().sum() + sum(out.terms.values())).backward()


class Plain:
    """The same in torch's own words."""

    def __init__(self, sae, betas, eps, grad_clip):
        self.sae, self.grad_clip = sae, grad_clip
        self.adam = torch.optim.Adam(sae.parameters(), betas=betas, eps=eps)

    def step(self, lr):
        W_dec = self.sae.W_dec
        if self.sae.unit_decoder:
            along = (W_dec.grad * W_dec).sum(-1, keepdim=True)
            W_dec.grad -= along.detach() * W_dec.detach()
        norm = clip_grad_norm_(self.sae.parameters(), self.grad_clip or float("inf"))
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        if self.sae.unit_decoder:
            W_dec.data = torch.nn.functional.normalize(W_dec.data, dim=-1)
        return norm


def pair(name, d_in, d_sae, betas=(0.9, 0.999), eps=1e-8, grad_clip=1.0):
    ours = SAES[name](d_in, d_sae)
    theirs = copy.deepcopy(ours)
    return SAEAdam(ours, betas, eps, grad_clip), Plain(theirs, betas, eps, grad_clip)


def assert_same_weights(ours, theirs, tolerance=1e-5):
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(
            p, q, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m
        )


def share_gradients(ours, theirs):
    """So that rounding in one does not come back as a gradient of another sign."""
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        q.grad = None if p.grad is None else p.grad.clone()


@pytest.mark.parametrize("grad_clip", [None, 0.01, 1.0, 1e6])
@pytest.mark.parametrize("name", SAES)
def test_equals_torch_step_by_step(name, grad_clip):
    ours, theirs = pair(name, 12, 40, grad_clip=grad_clip)
    for lr in (1e-3, 1e-2, 5e-3, 0.0, 1e-3, 2e-3):
        backward(ours.sae, torch.randn(30, 12))
        share_gradients(ours.sae, theirs.sae)
        norms = ours.step(lr), theirs.step(lr)
        assert float(norms[0]) == pytest.approx(float(norms[1]), rel=1e-5)
        assert ours.lr == lr
        assert_same_weights(ours.sae, theirs.sae)


@given(
    name=st.sampled_from(sorted(SAES)),
    d_in=st.sampled_from([1, 2, 7, 33]),
    d_sae=st.sampled_from([1, 2, 7, 33]),
    betas=st.tuples(st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.9, 0.999])),
    eps=st.sampled_from([1e-8, 6.25e-10, 1e-3]),
    grad_clip=st.sampled_from([None, 0.1, 1.0]),
    way=st.sampled_from([True, False]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_equals_torch_with_any_options_and_sizes(name, d_in, d_sae, betas, eps, grad_clip, way):
    """Also where the two matrices have the same shape, or a single row or column."""
    torch.manual_seed(0)
    ours, theirs = pair(name, d_in, d_sae, betas, eps, grad_clip)
    for _ in range(3):
        backward(ours.sae, torch.randn(9, d_in), way)
        share_gradients(ours.sae, theirs.sae)
        norms = ours.step(3e-3), theirs.step(3e-3)
        # With a single column there is nothing at right angles to a row: differences of rounding.
        assert float(norms[0]) == pytest.approx(float(norms[1]), rel=1e-4, abs=1e-4)
        if d_in > 1 or not ours.sae.unit_decoder:
            assert_same_weights(ours.sae, theirs.sae)
        if ours.sae.unit_decoder:
            assert torch.allclose(ours.sae.W_dec.norm(dim=-1), torch.ones(d_sae), atol=1e-6)
        assert ours.sae.W_enc.T.is_contiguous()


@pytest.mark.parametrize("name", SAES)
def test_each_trains_alone_as_well(name):
    """The gradients of each its own."""
    ours, theirs = pair(name, 12, 40)
    for _ in range(5):
        x = torch.randn(30, 12)
        for optimizer in (ours, theirs):
            backward(optimizer.sae, x)
            optimizer.step(1e-3)
    assert_same_weights(ours.sae, theirs.sae, 1e-3)


def test_the_norm_is_that_of_the_projected_gradient_and_the_gradients_stay():
    sae = TopKSAE(3, 2, 1)
    sae.W_dec.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    optimizer = SAEAdam(sae, grad_clip=0.5)
    sae.W_dec.grad = torch.tensor([[5.0, 3.0, 0.0], [0.0, 7.0, 4.0]])
    before = sae.W_dec.grad.clone()
    assert float(optimizer.step(0.1)) == pytest.approx(5)  # 3² + 4²
    assert torch.equal(sae.W_dec.grad, before)
    # Adam's first step is the rate along each sign
    first = torch.tensor([1.0, -0.1, 0.0]) / 1.01**0.5
    assert torch.allclose(sae.W_dec[0], first, atol=1e-4)


def test_the_encoder_by_hand():
    """Its gradient lies in memory as it does, latent after latent."""
    sae = TopKSAE(2, 3, 1)
    sae.W_enc.data.zero_()
    optimizer = SAEAdam(sae, grad_clip=None)
    (sae.W_enc * torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.0, -4.0]])).sum().backward()
    optimizer.step(0.5)
    assert torch.allclose(sae.W_enc, torch.tensor([[-0.5, 0.5, 0.0], [-0.5, 0.0, 0.5]]))


@pytest.mark.parametrize("square", [True, False])
def test_a_gradient_that_lies_otherwise_in_memory_is_still_that_of_its_element(square):
    """Autograd keeps the parameter's order; one set by hand may have the other."""
    sae = TopKSAE(3, 3 if square else 5, 1)
    other = copy.deepcopy(sae)
    gradient = torch.randn(sae.W_enc.shape)
    assert gradient.is_contiguous()
    sae.W_enc.grad = gradient
    other.W_enc.grad = gradient.T.contiguous().T
    for each in (sae, other):
        SAEAdam(each).step(0.1)
    assert torch.equal(sae.W_enc, other.W_enc)


def test_a_parameter_without_a_gradient_stays():
    sae = GatedSAE(4, 9)
    optimizer = SAEAdam(sae)
    before = {name: p.clone() for name, p in sae.named_parameters()}
    sae.b_mag.sum().backward()
    optimizer.step(0.1)
    moved = [name for name, p in sae.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["b_mag"]


def test_zero_grad():
    sae = TopKSAE(4, 9, 2)
    backward(sae, torch.randn(5, 4))
    SAEAdam(sae).zero_grad()
    assert all(p.grad is None for p in sae.parameters())


def after_steps(sae, steps=3):
    optimizer = SAEAdam(sae)
    for _ in range(steps):
        backward(sae, torch.randn(30, sae.d_in))
        optimizer.step(1e-2)
    return optimizer


def test_what_is_forgotten_starts_afresh_and_the_rest_does_not():
    sae = GatedSAE(6, 10, 0.1)
    optimizer = after_steps(sae)
    before = copy.deepcopy(optimizer.state_dict())
    weights = {name: p.clone() for name, p in sae.named_parameters()}
    latents = torch.arange(10) % 3 == 0
    optimizer.forget(latents)
    after = optimizer.state_dict()
    assert after["steps"] == before["steps"] == 3
    for kind in ("mean", "square"):
        for name in ("W_enc", "W_dec", "b_enc", "r_mag", "b_mag"):
            ours, old = after[kind][name], before[kind][name]
            if name == "W_enc":
                ours, old = ours.T, old.T
            assert (ours[latents] == 0).all(), name
            assert (old[latents] != 0).any(), name
            assert torch.equal(ours[~latents], old[~latents]), name
        assert torch.equal(after[kind]["b_dec"], before[kind]["b_dec"])
    assert all(torch.equal(p, weights[name]) for name, p in sae.named_parameters())


def test_nothing_forgotten_changes_nothing():
    optimizer = after_steps(TopKSAE(6, 10, 2))
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.forget(torch.zeros(10, dtype=torch.bool))
    for kind in ("mean", "square"):
        assert all(torch.equal(t, before[kind][n]) for n, t in optimizer.state_dict()[kind].items())


@pytest.mark.parametrize("name", SAES)
@pytest.mark.parametrize("shape", [(6, 10), (7, 7), (1, 5), (5, 1)])
def test_continues_from_a_checkpoint_to_the_bit(name, shape, tmp_path):
    sae = SAES[name](*shape)
    optimizer = after_steps(sae)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"sae": sae.state_dict(), "optimizer": optimizer.state_dict()})
    again = SAES[name](*shape)
    continued = SAEAdam(again)
    state = checkpoints.load_newest()
    again.load_state_dict(state["sae"])
    continued.load_state_dict(state["optimizer"])
    for _ in range(3):
        x = torch.randn(30, shape[0])
        for each in (optimizer, continued):
            backward(each.sae, x)
            each.step(1e-2)
    for p, q in zip(sae.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    assert continued.state_dict()["steps"] == 6
    for kind in ("mean", "square"):
        for key, tensor in optimizer.state_dict()[kind].items():
            assert torch.equal(tensor, continued.state_dict()[kind][key])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("grad_clip", [None, 1.0])
@pytest.mark.parametrize("name", SAES)
def test_a_gradient_that_is_not_finite_moves_nothing(name, grad_clip, bad):
    sae = SAES[name](6, 10)
    optimizer = after_steps(sae)
    optimizer.grad_clip = grad_clip
    weights = {n: p.clone() for n, p in sae.named_parameters()}
    state = copy.deepcopy(optimizer.state_dict())
    for parameter in sae.parameters():
        backward(sae, torch.randn(30, 6))
        parameter.grad[..., -1] = bad
        assert not torch.isfinite(optimizer.step(1e-2))
        assert all(torch.equal(p, weights[n]) for n, p in sae.named_parameters())
        for kind in ("mean", "square"):
            for key, tensor in optimizer.state_dict()[kind].items():
                assert torch.equal(tensor, state[kind][key]), key


def test_a_gradient_of_zero_moves_nothing():
    """Of a latent that never fires, that is."""
    sae = StandardSAE(6, 10)
    sae.b_enc.data[:5] = -100.0
    before = sae.W_dec[:5].clone()
    optimizer = SAEAdam(sae)
    for _ in range(3):
        backward(sae, torch.randn(30, 6))
        optimizer.step(1e-2)
    assert all(torch.isfinite(p).all() for p in sae.parameters())
    assert torch.allclose(sae.W_dec[:5], before, atol=1e-6)
