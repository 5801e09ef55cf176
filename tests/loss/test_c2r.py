"""C²R's penalty: by hand, by the formula, its gradients, its interval, a resumed run."""

import json
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption
from temporal_sae.latents import Latents
from temporal_sae.loss import ConsistencyLoss, OrthogonalityLoss, reconstruction_loss
from temporal_sae.sae import StepContext, TopKSAE
from temporal_sae.tracker import CoActivationTracker, NoTracker
from temporal_sae.training.backward import backward
from temporal_sae.training.stopwatch import Stopwatch
from tests.training.test_trainer import Synthetic, make_parts, make_trainer, same, weights

HAND_W_DEC = torch.tensor([[2.0, 0.0], [0.6, 0.8], [0.0, 0.5]])
HAND_LATENTS = Latents(
    torch.tensor([[3.0, 1.0], [4.0, 0.0], [2.0, 0.0]]), torch.tensor([[0, 1], [0, -1], [2, -1]])
)


def plain(W_dec, acts, exponent=1.0):
    """The formula to the letter for one chunk, one latent after the other."""
    directions = torch.nn.functional.normalize(W_dec, dim=-1)
    norms = [acts[:, i].square().sum().clamp(min=1e-24).sqrt() for i in range(len(W_dec))]
    total = 0.0
    for i in range(len(W_dec)):
        cosines = {j: directions[i] @ directions[j] for j in range(len(W_dec)) if j != i}
        nearest = max(cosines, key=lambda j: cosines[j].item())
        largest = cosines[nearest].clamp(min=0)
        total = total + (norms[i] + norms[nearest]) ** exponent * largest**2
    return total / len(W_dec)


def test_hand_example():
    # batch norms 5, 1, 2; cosines 0-1 .6, 0-2 0, 1-2 .8: pairs 0-1, 1-2, 2-1
    expected = ((5 + 1) * 0.36 + (1 + 2) * 0.64 + (2 + 1) * 0.64) / 3
    value = ConsistencyLoss(2.0, interval=1)(HAND_W_DEC, NoTracker(3), HAND_LATENTS)
    assert float(value) == pytest.approx(2 * expected)
    squared = ConsistencyLoss(2.0, exponent=2.0, interval=1)
    expected = (6**2 * 0.36 + 3**2 * 0.64 + 3**2 * 0.64) / 3
    assert float(squared(HAND_W_DEC, NoTracker(3), HAND_LATENTS)) == pytest.approx(2 * expected)


def test_latents_that_never_share_a_token_are_penalised_all_the_same():
    """So it is a penalty by marginal activity."""
    W_dec = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    apart = Latents(torch.ones(2, 1), torch.tensor([[0], [1]]))
    together = Latents(torch.tensor([[1.0, 1.0], [0, 0]]), torch.tensor([[0, 1], [-1, -1]]))
    values = [float(ConsistencyLoss()(W_dec, NoTracker(2), each)) for each in (apart, together)]
    assert values[0] == pytest.approx(values[1])
    assert values[0] > 0


def test_opposite_rows_cost_nothing():
    W_dec = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    latents = Latents(torch.ones(1, 2), torch.tensor([[0, 1]]))
    assert float(ConsistencyLoss()(W_dec, NoTracker(2), latents)) == 0


@given(st.integers(2, 20), st.integers(2, 6), st.sampled_from([0.5, 1.0, 1.7]), st.integers(0, 999))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_value_and_gradients_are_those_of_the_plain_formula(n, d, exponent, seed):
    torch.manual_seed(seed)
    W_dec = torch.randn(n, d, dtype=torch.float64, requires_grad=True)
    acts = torch.rand(7, n, dtype=torch.float64) * (torch.rand(7, n) < 0.4)
    latents = Latents.from_dense(acts)
    values = latents.values.clone().requires_grad_()
    latents = Latents(values * (latents.indices >= 0), latents.indices)
    loss = ConsistencyLoss(3.0, exponent=exponent, interval=2, seed=seed)
    value = loss(W_dec, NoTracker(n), latents)
    expected = 6 * plain(W_dec, latents.to_dense(n), exponent)
    torch.testing.assert_close(value, expected)
    inputs = [W_dec, values] if values.numel() else [W_dec]
    found, right = (
        torch.autograd.grad(each, inputs, retain_graph=True) for each in (value, expected)
    )
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert bool(ours.isfinite().all())


def test_neighbours_are_those_of_a_chunk_which_is_drawn_anew_in_every_step(monkeypatch):
    """Two equal rows among orthogonal ones cost something just when they share a chunk."""
    monkeypatch.setattr("temporal_sae.loss.c2r.CHUNK_OF_THE_PAPER", 4)
    W_dec, loss, tracker = torch.eye(12)[[0, 0, *range(1, 11)]], ConsistencyLoss(), NoTracker(12)
    latents, met = Latents(torch.ones(1, 12), torch.arange(12)[None]), 0
    for _ in range(300):
        met += float(loss(W_dec, tracker, latents)) > 0
        tracker.update(torch.zeros(1, 1, dtype=torch.int64))
    assert met / 300 == pytest.approx(3 / 11, abs=0.1)  # 3 places left in a chunk of 4, of 11


def test_no_weight_or_no_neighbour_is_no_work():
    W_dec = torch.full((3, 2), float("nan"), requires_grad=True)
    value = ConsistencyLoss(0.0)(W_dec, NoTracker(3), HAND_LATENTS)
    assert float(value) == 0
    assert not value.requires_grad
    alone = Latents(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    assert float(ConsistencyLoss()(torch.ones(1, 2), NoTracker(1), alone)) == 0


def test_what_it_is_given_is_looked_at():
    with pytest.raises(ValueError, match="must be a float matrix of 5 rows"):
        ConsistencyLoss()(HAND_W_DEC, NoTracker(5), HAND_LATENTS)
    with pytest.raises(ValueError, match="needs the latents"):
        ConsistencyLoss()(HAND_W_DEC, NoTracker(3))


@pytest.mark.parametrize(
    "options", [{"ortho_weight": -1}, {"exponent": -1}, {"interval": 0}, {"seed": -1}]
)
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        ConsistencyLoss(**options)


def test_a_step_takes_both_of_its_gradients(tmp_path):
    """That of the summed loss, by encoder and decoder."""
    parts = make_parts(tmp_path, penalty=ConsistencyLoss(interval=1), stability=False)
    x = next(parts.batches).x
    out = parts.sae.training_step(x, StepContext(0))
    main = reconstruction_loss("fvu", x, out.x_hat)
    backward(parts, main, out, Stopwatch(x.device))
    apart = {name: p.grad.clone() for name, p in parts.sae.named_parameters()}
    parts.sae.zero_grad()
    out = parts.sae.training_step(x, StepContext(0))
    whole = reconstruction_loss("fvu", x, out.x_hat)
    (whole + parts.penalty(parts.sae.W_dec, parts.tracker, out.latents)).backward()
    for name, p in parts.sae.named_parameters():
        assert torch.allclose(apart[name], p.grad, atol=1e-6), name


@pytest.mark.parametrize("stream", ["shuffled", "ordered"])
def test_it_acts_in_every_third_step_and_a_resumed_run_keeps_count(tmp_path, stream):
    def trained(folder, steps):
        tracker = CoActivationTracker(32, window_size=100, stream=stream)
        batches = Synthetic(ordered=stream == "ordered")
        penalty = ConsistencyLoss(interval=3)
        parts = make_parts(folder, tracker=tracker, penalty=penalty, batches=batches)
        fixed = {"decay_fraction": 0.0, "dead_after_tokens": 1000, "log_every": 1}
        make_trainer(steps=steps, **fixed).fit(parts)
        return parts

    whole = trained(tmp_path / "whole", 12)
    lines = map(json.loads, whole.logger.path.read_text().splitlines())
    acts = [line["loss_orthogonality"] > 0 for line in lines]
    assert acts == [False, False, True] * 4
    trained(tmp_path / "parts", 7)
    assert same(weights(trained(tmp_path / "parts", 12)), weights(whole))


def test_steps_in_which_it_is_not_due_do_not_count_as_negligible(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        parts = make_parts(tmp_path / "a", penalty=ConsistencyLoss(interval=3))
        make_trainer(steps=40, log_every=1).fit(parts)
        assert "next to nothing" not in caplog.text
        parts = make_parts(tmp_path / "b", penalty=ConsistencyLoss(1e-9, interval=3))
        make_trainer(steps=40, log_every=1).fit(parts)
    assert "next to nothing" in caplog.text


def test_it_lowers_the_largest_positive_cosines(tmp_path):
    largest = []
    for penalty in (OrthogonalityLoss(0.0), ConsistencyLoss(5.0)):
        parts = make_parts(tmp_path / str(len(largest)), sae=TopKSAE(8, 32, 4), penalty=penalty)
        make_trainer(steps=150).fit(parts)
        cosine = parts.sae.W_dec.detach() @ parts.sae.W_dec.detach().T
        largest.append(float(cosine.fill_diagonal_(-1).max(1).values.mean()))
    assert largest[1] < largest[0] - 0.05
