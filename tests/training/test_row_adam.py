"""RowAdam: Adam on gradients of few rows is Adam on those of all, and so is training with it."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption
from temporal_sae.loss import ChunkedOrthogonalityLoss, ConsecutiveLoss, OrthogonalityLoss
from temporal_sae.sae import BatchTopKSAE, TopKSAE
from temporal_sae.tracker import CoActivationTracker
from temporal_sae.training import Checkpoints, Stopped
from temporal_sae.training.optimizer import SAEAdam
from temporal_sae.training.row_adam import NEVER, RowAdam, steps_of_movement
from tests.training.test_trainer import (
    ARCHITECTURES,
    B,
    D,
    Synthetic,
    equal_states,
    make_parts,
    make_trainer,
    same,
    weights,
)

N, WIDTH = 6, 5
QUICK = (0.5, 0.9)  # of which a row sleeps after 15 steps
# Latents with a gradient in each step, by matrix, and then for some time none.
PATTERNS = st.lists(
    st.tuples(st.sets(st.integers(0, N - 1)), st.sets(st.integers(0, N - 1)), st.integers(0, 40)),
    min_size=1,
    max_size=5,
)


def pair(betas=(0.9, 0.999), grad_clip=1.0):
    sae = TopKSAE(WIDTH, N, 2)
    options = {"betas": betas, "grad_clip": grad_clip}
    return RowAdam(sae, **options), SAEAdam(copy.deepcopy(sae), **options)


def give(ours, whole, of_encoder, of_decoder, size=1.0):
    """The same gradients to both: by rows, and as whole matrices."""
    for each in (ours, whole):
        each.zero_grad()
        each.sae.b_enc.grad, each.sae.b_dec.grad = torch.zeros(N), torch.ones(WIDTH)
    whole.sae.W_enc.grad, whole.sae.W_dec.grad = torch.zeros(WIDTH, N), torch.zeros(N, WIDTH)
    by_row = (whole.sae.W_enc.grad.T, whole.sae.W_dec.grad)
    chosen = (of_encoder, of_decoder)
    for gradient, matrix, latents in zip(ours.gradients, by_row, chosen, strict=True):
        rows = torch.tensor(sorted(latents), dtype=torch.int64)
        matrix[rows] = size * torch.randn(len(rows), WIDTH)
        gradient.add(rows, matrix[rows].clone())


def largest_difference(ours, whole):
    pairs = zip(ours.sae.parameters(), whole.sae.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


@given(pattern=PATTERNS, grad_clip=st.sampled_from([None, 0.1]), lr=st.sampled_from([1e-3, 1e-2]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_equals_adam_on_whole_matrices(pattern, grad_clip, lr):
    """Whatever fires, and however long nothing does: norms, clipping, projection and weights.

    Each sleep may leave out 1e-4 learning rates, and the rest is rounding.
    """
    torch.manual_seed(0)
    ours, whole = pair(QUICK, grad_clip)
    for of_encoder, of_decoder, silence in pattern:
        for step in range(1 + silence):
            silent = step > 0
            give(ours, whole, *((set(), set()) if silent else (of_encoder, of_decoder)))
            torch.testing.assert_close(ours.step(lr), whole.step(lr))
    assert largest_difference(ours, whole) < len(pattern) * 1e-4 * lr + 1e-6
    torch.testing.assert_close(ours.sae.W_dec.norm(dim=-1), torch.ones(N))


def test_the_norm_is_that_of_the_projected_gradient():
    ours, _ = pair(grad_clip=0.5)
    ours.sae.W_dec.data = torch.eye(N, WIDTH)
    ours.gradients.W_dec.add(torch.tensor([1]), torch.tensor([[3.0, 7.0, 0.0, 0.0, 4.0]]))
    assert float(ours.step(0.1)) == pytest.approx(5)  # 3² + 4²
    ours.zero_grad()
    assert not len(ours.gradients.W_dec.rows)


@pytest.mark.parametrize("betas", [(0.9, 0.999), QUICK, (0.9, 0.9), (0.99, 0.9999)])
def test_a_row_sleeps_when_what_is_left_is_less_than_a_ten_thousandth_of_a_rate(betas):
    """The gradients that leave the largest average beside the root of the other: g_i ∝ ρ^i."""
    beta1, beta2 = betas
    n, mean, square = steps_of_movement(*betas), 0.0, 0.0
    for age in range(2000, -1, -1):  # the newest counts most
        g = (beta1 / beta2) ** age
        mean, square = beta1 * mean + (1 - beta1) * g, beta2 * square + (1 - beta2) * g * g
    moved = [mean / math.sqrt(square) * (beta1 / math.sqrt(beta2)) ** j for j in range(20 * n)]
    assert sum(moved[n + 1 :]) <= 1e-4 * (1 + 1e-9)
    assert sum(moved[n:]) > 0.99e-4


@pytest.mark.parametrize(("betas", "steps"), [((0.0, 0.999), 0), ((0.9, 0.8), NEVER)])
def test_how_long_a_row_moves_at_the_extremes(betas, steps):
    assert steps_of_movement(*betas) == steps


@pytest.mark.parametrize("as_rows", [True, False])
@pytest.mark.parametrize("from_rows", [True, False])
def test_continues_from_either_kind(tmp_path, from_rows, as_rows):
    """To the bit where it was and stays of one kind; rows sleep while it is saved, and wake."""
    ours, whole = pair(QUICK)
    for step in range(30):
        give(ours, whole, {0, 1} if step < 2 else {2}, {0, 3} if step < 2 else {3})
        ours.step(1e-2)
        whole.step(1e-2)
    old = ours if from_rows else whole
    saved = {"sae": old.sae.state_dict(), "optimizer": old.state_dict()}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(30, saved)
    state, sae = checkpoints.load_newest(), TopKSAE(WIDTH, N, 2)
    sae.load_state_dict(state["sae"])
    new = (RowAdam if as_rows else SAEAdam)(sae, betas=QUICK)
    new.load_state_dict(state["optimizer"])
    for latents in ({0}, {1, 2}, set()):
        give(ours, whole, latents, latents)
        for name in ("W_enc", "W_dec"):
            if as_rows:
                held = getattr(ours.gradients, name)
                getattr(new.gradients, name).add(held.rows, held.values.clone())
            else:
                new.sae.get_parameter(name).grad = whole.sae.get_parameter(name).grad.clone()
        sae.b_enc.grad, sae.b_dec.grad = torch.zeros(N), torch.ones(WIDTH)
        for each in (ours, whole, new):
            each.step(1e-2)
        new.zero_grad()
    exact = from_rows == as_rows
    assert largest_difference(new, old) <= (0 if exact else 1e-5)


def test_what_is_forgotten_starts_afresh():
    ours, whole = pair()
    for _ in range(3):
        give(ours, whole, {0, 1}, {0, 1})
        ours.step(1e-2)
    ours.forget(torch.arange(N) == 0)
    state = ours.state_dict()
    assert not state["mean"]["W_dec"][0].any() and state["mean"]["W_dec"][1].any()


MANY = 256
PENALTIES = {
    "sampled": lambda: OrthogonalityLoss(estimator="sampled"),
    "exact": lambda: OrthogonalityLoss(estimator="exact"),
    "activations": lambda: OrthogonalityLoss(gram="activations"),
    "chunks": lambda: ChunkedOrthogonalityLoss(),
    "consecutive": lambda: ConsecutiveLoss(),
    "off": lambda: OrthogonalityLoss(0.0),
}


def train(folder, gradients, make_sae=TopKSAE, penalty="sampled", batches=None, **options):
    torch.manual_seed(0)
    sae = make_sae(D, MANY, 2)
    sae.b_enc.data[::3] = -1.5
    tracker = CoActivationTracker(MANY, window_size=100)
    parts = make_parts(folder, sae, tracker, PENALTIES[penalty](), batches)
    torch.manual_seed(1)
    settings = {"steps": 12, "lr": 1e-3, "step": "sparse", **options}
    return parts, make_trainer(gradients=gradients, **settings).fit(parts)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("make_sae", [TopKSAE, BatchTopKSAE])
def test_a_run_by_rows_is_the_run(tmp_path, make_sae, penalty):
    """With every source of a gradient: the step's latents, dead ones, and a penalty."""
    options = {"make_sae": make_sae, "penalty": penalty, "dead_after_tokens": 200}
    parts, _ = train(tmp_path / "dense", "dense", **options)
    ours, run = train(tmp_path / "rows", "rows", **options)
    assert "loss_auxk" in run.metrics
    assert all(p.grad is None for p in ours.sae.parameters())
    for name, expected in weights(parts).items():
        # Adam's step is the full rate wherever a gradient is not 0, however small.
        near = (weights(ours)[name] - expected).abs() < 1e-5
        assert near.float().mean() > 0.99, name


def test_a_run_by_rows_that_is_stopped_and_continued_is_the_same_to_the_bit(tmp_path):
    options = {"beta1": 0.1, "beta2": 0.9, "steps": 40, "dead_after_tokens": 2000}
    expected, whole = train(tmp_path / "whole", "rows", **options)
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", "rows", batches=Synthetic(25), **options)
    continued, run = train(tmp_path / "stopped", "rows", **options)
    assert same(weights(expected), weights(continued))
    assert equal_states(whole.optimizer.state_dict(), run.optimizer.state_dict())
    until = whole.optimizer.state_dict()["awake_until"]["W_enc"]
    assert ((until > 0) & (until < 40)).any()  # some sleep again


@pytest.mark.parametrize(
    ("options", "d_sae", "batch_size"),
    [({}, 2**16, 2**9), ({"step": "sparse"}, 2**18, 2**11)],
)
def test_auto_keeps_rows_of_many_latents_of_which_few_are_active(options, d_sae, batch_size):
    with torch.device("meta"):
        many, fewer = TopKSAE(D, d_sae, 32), TopKSAE(D, d_sae // 2, 32)
        nested = ARCHITECTURES["matryoshka"]()
    options = {"batch_size": batch_size, "warmup_steps": 0, **options}
    trainer = make_trainer(**options)
    assert trainer.keeps_rows(many)
    assert not trainer.keeps_rows(fewer)
    assert not trainer.keeps_rows(nested)
    for other in ({"step": "dense"}, {"constraint": "aligned"}, {"gradients": "dense"}):
        chosen = {**options, **other}
        assert not make_trainer(**chosen).keeps_rows(many)


@pytest.mark.parametrize("other", [{"step": "dense"}, {"constraint": "aligned"}])
def test_rows_with_what_needs_whole_matrices(other):
    with pytest.raises(InvalidOption, match=r"^gradients='rows': must be auto or dense with trai"):
        make_trainer(gradients="rows", **other)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - {"topk", "batch_topk"}))
def test_rows_of_other_architectures(name):
    trainer = make_trainer(gradients="rows")
    with pytest.raises(InvalidOption, match=r"^gradients='rows': must be auto or dense with sae="):
        trainer.check(ARCHITECTURES[name]())
    trainer.check(TopKSAE(D, B, 4))


def test_rows_in_several_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("temporal_sae.distributed.world_size", lambda: 2)
    with pytest.raises(InvalidOption, match=r"^gradients='rows': .* but by one process on a CPU$"):
        make_trainer(gradients="rows").start(make_parts(tmp_path))
