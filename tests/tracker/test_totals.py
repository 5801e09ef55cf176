"""Totals of all pairs against counting all tokens at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.atlas import counting
from temporal_sae.errors import InvalidOption
from temporal_sae.tracker import CoActivationTracker
from tests.atlas.test_counting import written
from tests.tracker.test_storages import zipf_stream

STORAGES = ["dense", "sparse", "reference"]
N, K = 30, 6


def tracked(indices, **options):
    tracker = CoActivationTracker(N, **options)
    tracker.update(indices)
    return tracker


def expected_totals(indices, window_size, first_token):
    """n_ii, n_ij and Σ n_ij² of the whole windows from a token on, and their number."""
    mask = torch.zeros(len(indices), N + 1, dtype=torch.int64)
    mask.scatter_(1, torch.where(indices >= 0, indices, N), 1)
    starts = range(0, len(indices) - window_size + 1, window_size)
    windows = [mask[a : a + window_size, :N] for a in starts if a >= first_token]
    counts = [window.T @ window for window in windows]
    none = torch.zeros(N, N, dtype=torch.int64)
    return sum(counts, none), sum((c**2 for c in counts), none), len(windows)


def assert_totals(tracker, indices, first_token=0):
    n, squares, n_windows = expected_totals(indices, tracker.window_size, first_token)
    totals = tracker.totals
    assert (totals.n_windows, totals.n_tokens) == (n_windows, n_windows * tracker.window_size)
    assert torch.equal(totals.n, n.diagonal())
    i, j = torch.meshgrid(torch.arange(N), torch.arange(N), indexing="ij")
    found, of_windows = totals.counts(i, j)
    assert torch.equal(found, n)
    assert torch.equal(of_windows, squares.fill_diagonal_(0))
    for least in (1, 4):
        parts = list(totals.pairs(least))
        i, j, counts, of_windows = (torch.cat(column) for column in zip(*parts, strict=True))
        wanted = torch.triu(n, 1) >= least
        assert torch.equal(torch.stack([i, j]), torch.stack(wanted.nonzero(as_tuple=True)))
        assert torch.equal(counts, n[i, j])
        assert torch.equal(of_windows, squares[i, j])


@pytest.mark.parametrize("storage", STORAGES)
@given(
    seed=st.integers(0, 999),
    window_size=st.integers(1, 40),
    first_token=st.integers(0, 90),
    piece=st.integers(1, 100),
)
@settings(max_examples=30, deadline=None)
def test_totals_are_those_of_all_tokens(storage, seed, window_size, first_token, piece):
    indices = zipf_stream(seed, N, K)
    options = {"window_size": window_size, "storage": storage, "totals_from": first_token}
    tracker = CoActivationTracker(N, **options)
    for part in indices.split(piece):
        tracker.update(part)
    assert_totals(tracker, indices, first_token)


@pytest.mark.parametrize("source", STORAGES)
@pytest.mark.parametrize("target", STORAGES)
def test_totals_go_on_where_they_were_saved(source, target):
    indices = zipf_stream(0, N, K, tokens=500)
    options = {"window_size": 30, "totals_from": 60}
    first = tracked(indices[:250], storage=source, **options)
    state = first.state_dict()
    second = tracked(zipf_stream(1, N, K), storage=target, **options)  # what is there is forgotten
    second.load_state_dict(state)
    first.update(indices[250:])
    second.update(indices[250:])
    for tracker in (first, second):
        assert_totals(tracker, indices, 60)


def test_totals_begin_where_an_earlier_state_had_none():
    indices = zipf_stream(0, N, K, tokens=500)
    before = tracked(indices[:250], window_size=30)
    assert "totals" not in before.state_dict()
    assert before.totals is None
    after = CoActivationTracker(N, window_size=30, totals_from=0)
    after.load_state_dict(before.state_dict())
    after.update(indices[250:])
    assert_totals(after, indices, 240)


@pytest.mark.parametrize("storage", STORAGES)
def test_averages_do_not_feel_totals(storage):
    indices = zipf_stream(0, N, K, tokens=500)
    with_them = tracked(indices, window_size=30, storage=storage, totals_from=0)
    without = tracked(indices, window_size=30, storage=storage)
    assert torch.equal(with_them.weight_matrix(), without.weight_matrix())
    assert with_them.nbytes() > without.nbytes()
    ours, theirs = with_them.state_dict(), without.state_dict()
    assert set(ours) - set(theirs) == {"totals"}


def test_totals_are_the_atlas_of_the_same_tokens(tmp_path):
    indices = zipf_stream(0, N, K, tokens=600)
    active = [{latent for latent in row if latent >= 0} for row in indices.tolist()]
    firings = written(tmp_path, active, N, window_size=100)
    counts = counting.firing_counts(firings)
    postings = counting.postings_of(firings, counts, 0, N)
    (theirs,) = counting.pair_counts(firings, postings)
    totals = tracked(indices, window_size=100, totals_from=0, storage="sparse").totals
    (ours,) = totals.pairs()
    for found, expected in zip(ours, theirs, strict=True):
        assert np.array_equal(found.numpy(), expected)
    assert totals.n.tolist() == counts.tolist()


def test_totals_count_in_the_choice_of_a_storage():
    with_them, without = (CoActivationTracker(4000, totals_from=f) for f in (0, None))
    (ours,), (theirs,) = (
        tracker.planned_bytes(4000, 32, torch.device("cpu")).values()
        for tracker in (with_them, without)
    )
    assert ours.n_bytes - theirs.n_bytes == 16 * 4000 * 3999 // 2
    reference = CoActivationTracker(400, storage="reference", totals_from=0)
    (planned,) = reference.planned_bytes(400, 32, torch.device("cpu")).values()
    assert planned.n_bytes >= (24 * 400 + 8 * 399) * 400


@pytest.mark.parametrize("first_token", [-1, 2.5, True])
def test_a_token_that_is_none_is_refused(first_token):
    with pytest.raises(InvalidOption, match=f"totals_from={first_token}"):
        CoActivationTracker(4, totals_from=first_token)
