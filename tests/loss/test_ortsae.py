"""OrtSAE's chunked penalty: by hand, by brute force, its gradient, its chunks, a resumed run."""

import itertools
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console

from temporal_sae.activations import ActivationBatch, Rows
from temporal_sae.errors import InvalidOption
from temporal_sae.experiment.build import warn_if_idle
from temporal_sae.loss import ChunkedOrthogonalityLoss, OrthogonalityLoss
from temporal_sae.loss.ortsae import mean_over_chunks
from temporal_sae.sae import TopKSAE
from temporal_sae.tracker import CoActivationTracker, NoTracker
from temporal_sae.training import Checkpoints, JsonlLogger, Parts, ProgressDisplay, Trainer

HAND_W_DEC = torch.tensor([[2.0, 0.0], [0.6, 0.8], [0.0, 0.5]])


def plain(W_dec, chunks):
    """The formula to the letter, one latent after the other."""
    directions = torch.nn.functional.normalize(W_dec, dim=-1)
    means = []
    for chunk in chunks:
        rows = chunk.tolist()
        nearest = [
            torch.stack([directions[i] @ directions[j] for j in rows if j != i]).max() for i in rows
        ]
        means.append(torch.stack(nearest).square().mean())
    return torch.stack(means).mean()


def after(tokens, n_latents):
    """A tracker that has seen some tokens."""
    tracker = NoTracker(n_latents)
    tracker.update(torch.zeros(tokens, 1, dtype=torch.int64))
    return tracker


def chunked(W_dec, n_chunks, seed=0):
    """Random chunks that differ in size by at most one, for the plain formula."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(W_dec.shape[0], generator=generator).tensor_split(n_chunks)


def test_hand_example():
    # cosines: 0-1 .6, 0-2 0, 1-2 .8, so the largest are .6, .8, .8; row lengths do not matter
    expected = (0.36 + 0.64 + 0.64) / 3
    loss = ChunkedOrthogonalityLoss(ortho_weight=3.0, n_chunks=1)
    assert float(loss(HAND_W_DEC, NoTracker(3))) == pytest.approx(3.0 * expected)


def test_the_largest_cosine_is_taken_with_its_sign():
    W_dec = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]])  # cosines -1, .6, -.6
    loss = ChunkedOrthogonalityLoss(1.0, n_chunks=1)
    assert float(loss(W_dec, NoTracker(3))) == pytest.approx(0.36)


@given(
    st.integers(2, 40),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(0, 999),
    st.sampled_from([1, 400, 2**21]),
)
@settings(max_examples=60, deadline=None)
def test_value_and_gradient_are_those_of_the_plain_formula(n, d, n_chunks, seed, at_once):
    torch.manual_seed(seed)
    n_chunks = min(n_chunks, n // 2)
    W_dec = torch.randn(n, d, dtype=torch.float64, requires_grad=True)
    chunks = chunked(W_dec, n_chunks, seed)
    expected = plain(W_dec, chunks)
    (slope,) = torch.autograd.grad(expected, W_dec)
    into = torch.ones_like(W_dec)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("temporal_sae.loss.overlap.BYTES_AT_ONCE", at_once)
        value = mean_over_chunks(W_dec, chunks, into, 2.0)
    torch.testing.assert_close(value, expected.detach())
    if d > 1:  # on a line cosines are ±1, and the nearest neighbour is not unique
        torch.testing.assert_close(into, 1 + 2 * slope)


@pytest.mark.parametrize("n", [4, 5, 6])
def test_the_loss_is_the_plain_formula_and_every_way_to_halve_the_latents_comes_up(n):
    W_dec, everyone = torch.randn(n, 4), set(range(n))
    halves = [set(half) for half in itertools.combinations(range(n), n // 2)]
    possible = {
        round(float(plain(W_dec, [torch.tensor([*half]), torch.tensor([*(everyone - half)])])), 5)
        for half in halves
    }
    loss = ChunkedOrthogonalityLoss(1.0, n_chunks=2)
    drawn = {round(float(loss(W_dec, after(tokens, n))), 5) for tokens in range(200)}
    assert drawn == possible


@given(st.integers(4, 30), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_between_0_and_1_and_blind_to_row_lengths_and_without_pull_along_a_row(n, seed):
    torch.manual_seed(seed)
    W_dec = torch.randn(n, 5, dtype=torch.float64, requires_grad=True)
    loss, tracker = ChunkedOrthogonalityLoss(1.0, n_chunks=2, seed=seed), after(seed, n)
    value = loss(W_dec, tracker)
    assert 0 <= value.item() <= 1
    stretched = W_dec.detach() * torch.rand(n, 1).add(0.1)
    assert float(loss(stretched, tracker)) == pytest.approx(value.item())
    value.backward()
    assert W_dec.grad.abs().max() > 0
    along = (W_dec.grad * W_dec).sum(-1) / W_dec.grad.norm(dim=-1).clamp(min=1e-30)
    assert float(along.detach().abs().max()) < 1e-10


def test_gradient_is_that_of_finite_differences():
    W_dec = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    loss = ChunkedOrthogonalityLoss(2.0, n_chunks=2)
    assert torch.autograd.gradcheck(lambda w: loss(w, NoTracker(9)), W_dec)


def test_the_one_pass_gradient_is_that_of_autograd_added_to_what_is_there():
    W_dec, tracker = torch.randn(50, 6, requires_grad=True), NoTracker(50)
    loss = ChunkedOrthogonalityLoss(0.5, n_chunks=4)
    value = loss(W_dec, tracker)
    (expected,) = torch.autograd.grad(value, W_dec)
    there = torch.randn(50, 6)
    into = there.clone()
    again = loss.add_gradient(W_dec, tracker, into)
    assert torch.equal(again, value.detach())
    torch.testing.assert_close(into - there, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_chunks", [None, 1, 3, 10])
def test_orthogonal_decoder_costs_nothing(n_chunks):
    W_dec = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q
    value = float(ChunkedOrthogonalityLoss(1.0, n_chunks)(W_dec, NoTracker(20)))
    assert value == pytest.approx(0, abs=1e-28)


def test_descending_it_makes_a_decoder_orthogonal():
    W_dec, loss = torch.randn(16, 32), ChunkedOrthogonalityLoss(1.0, n_chunks=3)
    tracker, before = NoTracker(16), None
    for _ in range(400):
        gradient = torch.zeros_like(W_dec)
        value = float(loss.add_gradient(W_dec, tracker, gradient))
        before = before or value
        W_dec = torch.nn.functional.normalize(W_dec - gradient, dim=-1)
        tracker.update(torch.zeros(1, 1, dtype=torch.int64))
    whole = float(ChunkedOrthogonalityLoss(1.0, 1)(W_dec, NoTracker(16)))
    assert whole < 0.05 * before


def test_a_latent_alone_has_no_neighbour():
    W_dec, into = torch.randn(1, 3), torch.zeros(1, 3)
    assert float(ChunkedOrthogonalityLoss()(W_dec, NoTracker(1))) == 0
    assert float(ChunkedOrthogonalityLoss().add_gradient(W_dec, NoTracker(1), into)) == 0
    assert not into.any()


def test_null_takes_the_papers_chunks(monkeypatch):
    monkeypatch.setattr("temporal_sae.loss.ortsae.CHUNK_OF_THE_PAPER", 8)
    W_dec = torch.randn(20, 4)
    by_rule, asked = (
        float(ChunkedOrthogonalityLoss(1.0, n)(W_dec, after(5, 20))) for n in (None, 3)
    )
    assert by_rule == asked


def test_chunks_are_a_function_of_seed_and_tokens_seen():
    W_dec = torch.randn(40, 6)

    def value(seed, tokens):
        return float(ChunkedOrthogonalityLoss(n_chunks=8, seed=seed)(W_dec, after(tokens, 40)))

    assert value(0, 100) == value(0, 100)
    assert len({value(seed, tokens) for seed in (0, 1) for tokens in (0, 100, 200)}) == 6
    assert value(2**63 - 1, 7) == value(2**63 - 1, 7)  # the largest seed there is


def test_every_pair_meets_in_some_chunk():
    """Two equal rows among orthogonal ones cost something just when they share a chunk."""
    W_dec = torch.eye(12)[[0, 0, *range(1, 11)]]
    loss, tracker, met = ChunkedOrthogonalityLoss(1.0, n_chunks=3), NoTracker(12), 0
    for _ in range(300):
        met += float(loss(W_dec, tracker)) > 0
        tracker.update(torch.zeros(1, 1, dtype=torch.int64))
    assert met / 300 == pytest.approx(3 / 11, abs=0.1)  # 3 places left in a chunk of 4, of 11


def test_no_weight_is_no_work():
    W_dec = torch.full((4, 2), float("nan"), requires_grad=True)
    value = ChunkedOrthogonalityLoss(0.0)(W_dec, NoTracker(4))
    assert float(value) == 0
    assert not value.requires_grad
    into = torch.zeros(4, 2)
    assert float(ChunkedOrthogonalityLoss(0.0).add_gradient(W_dec, NoTracker(4), into)) == 0
    assert not into.any()


def test_what_it_is_given_is_looked_at():
    with pytest.raises(ValueError, match="must be a float matrix of 5 rows"):
        ChunkedOrthogonalityLoss()(torch.randn(4, 2), NoTracker(5))
    with pytest.raises(ValueError, match="row 2 is not finite"):
        W_dec = torch.ones(5, 2)
        W_dec[2, 0] = torch.nan
        ChunkedOrthogonalityLoss()(W_dec, NoTracker(5))


@pytest.mark.parametrize(
    "options", [{"ortho_weight": -1}, {"n_chunks": 0}, {"n_chunks": 2.5}, {"seed": -1}]
)
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        ChunkedOrthogonalityLoss(**options)


@pytest.mark.parametrize("n_chunks", [4, 7, 8])
def test_more_chunks_than_pairs_are_refused(n_chunks):
    loss = ChunkedOrthogonalityLoss(n_chunks=n_chunks)
    with pytest.raises(InvalidOption, match=f"n_chunks={n_chunks}: must be at most 3, two latents"):
        loss.check_tracker(NoTracker(7))
    with pytest.raises(InvalidOption, match="n_chunks"):
        loss(torch.randn(7, 3), NoTracker(7))


def test_it_works_without_a_tracker_and_nobody_warns(caplog):
    cfg = OmegaConf.create({"trainer": {"num_tokens": 10}})
    with caplog.at_level(logging.WARNING):
        warn_if_idle(cfg, NoTracker(4), ChunkedOrthogonalityLoss())
        warn_if_idle(cfg, CoActivationTracker(4), ChunkedOrthogonalityLoss())
        assert not caplog.records
        warn_if_idle(cfg, NoTracker(4), OrthogonalityLoss())
    assert "does nothing" in caplog.text


class Noise:
    """Batches that can be continued."""

    n = 0

    def __next__(self):
        self.n += 1
        generator = torch.Generator().manual_seed(self.n)
        return ActivationBatch(Rows(torch.randn(16, 8, generator=generator)))

    def sample(self, n):
        return torch.randn(n, 8, generator=torch.Generator().manual_seed(0))

    def metrics(self):
        return {}

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


def trained(folder, tracker, steps, n_chunks=4):
    """The decoder after a run that takes up whatever checkpoint the folder has."""
    torch.manual_seed(0)
    sae = TopKSAE(8, 32, 4)
    parts = Parts(
        sae=sae,
        batches=Noise(),
        tracker=tracker,
        penalty=ChunkedOrthogonalityLoss(n_chunks=n_chunks),
        logger=JsonlLogger(folder),
        checkpoints=Checkpoints(folder / "checkpoints"),
        progress=ProgressDisplay(1, Console(quiet=True)),
    )
    options = {"batch_size": 16, "warmup_steps": 0, "decay_fraction": 0.0, "checkpoint_every": 1}
    options["dead_after_tokens"] = 1000  # it would follow the length of the run
    Trainer(num_tokens=steps * 16, **options).fit(parts)
    return sae.W_dec.detach().clone()


@pytest.mark.parametrize("make_tracker", [NoTracker, CoActivationTracker])
def test_a_resumed_run_draws_the_chunks_that_one_left_alone_draws(tmp_path, make_tracker):
    whole = trained(tmp_path / "whole", make_tracker(32), 12)
    trained(tmp_path / "parts", make_tracker(32), 5)
    assert torch.equal(trained(tmp_path / "parts", make_tracker(32), 12), whole)
    assert not torch.equal(trained(tmp_path / "one", make_tracker(32), 12, n_chunks=1), whole)
