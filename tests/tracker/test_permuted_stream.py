"""The control `tracker.stream=permuted`, and averages that begin after warm-up."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption
from temporal_sae.tracker import CoActivationTracker, TranscriptTracker
from temporal_sae.tracker.permuted_stream import PermutedStream
from tests.tracker.test_storages import zipf_stream

N, K, W = 12, 4, 10


def numbered(tokens, width=2):
    """Rows that tell the number of their token."""
    return torch.arange(tokens, dtype=torch.int32)[:, None].expand(-1, width).contiguous()


def handed_on(stream, rows, cuts=()):
    return torch.cat([stream.exchange(part) for part in rows.tensor_split(sorted(cuts))])


@given(
    n_rows=st.integers(1, 30),
    tokens=st.integers(0, 200),
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_one_row_after_the_other_takes_a_place(n_rows, tokens, seed, cuts):
    stream = PermutedStream(n_rows, seed)
    ours = handed_on(stream, numbered(tokens), cuts)[:, 0].tolist()
    pool, expected = list(range(min(n_rows, tokens))), []
    other = PermutedStream(n_rows, seed)
    other.arrived = n_rows
    places = other._places(tokens).tolist()
    for token in range(n_rows, tokens):
        place = places[token - n_rows]
        expected.append(pool[place])
        pool[place] = token
    assert ours == expected
    assert sorted(ours + pool) == list(range(tokens))  # nothing is lost, nothing comes twice


def test_a_token_waits_for_as_many_as_the_pool_holds():
    n_rows = 500
    ours = handed_on(PermutedStream(n_rows, 0), numbered(40_000))[:, 0].double()
    waited = torch.arange(len(ours)) + n_rows - ours
    assert float(waited[5000:].mean()) == pytest.approx(n_rows, rel=0.05)
    assert handed_on(PermutedStream(n_rows, 1), numbered(2000))[:, 0].tolist() != (
        ours[:1500].tolist()
    )


def test_rows_of_different_width_share_a_pool():
    stream = PermutedStream(2, 0)
    stream.exchange(numbered(2, 1))
    wide = stream.exchange(numbered(4, 3) + 10)
    narrow = stream.exchange(numbered(50, 2) + 20)
    assert wide.shape == (4, 3)
    assert narrow.shape == (50, 3)
    seen = torch.cat([wide, narrow]).tolist()
    assert [0, -1, -1] in seen and [13, 13, 13] in seen and [20, 20, -1] in seen


@given(st.integers(0, 120), st.integers(1, 40), st.sampled_from(["dense", "sparse", "reference"]))
@settings(max_examples=30, deadline=None)
def test_a_resumed_tracker_goes_on_with_the_same_pool(cut, pool, storage):
    rows = zipf_stream(0, N, K, tokens=120)
    options = {"window_size": W, "stream": "permuted", "permuted_tokens": pool, "totals_from": 0}
    whole, first, second = (CoActivationTracker(N, storage=storage, **options) for _ in range(3))
    whole.update(rows)
    first.update(rows[:cut])
    state = first.state_dict()
    second.update(zipf_stream(5, N, K))  # what is there is forgotten
    second.load_state_dict(state)
    first.update(rows[cut:])
    second.update(rows[cut:])
    for tracker in (first, second):
        assert tracker.tokens_seen == 120
        assert tracker.windows_closed == (120 - pool) // W
        assert torch.equal(tracker.weight_matrix("stable"), whole.weight_matrix("stable"))
        assert torch.equal(tracker.weight_matrix(), whole.weight_matrix())


def test_bursts_are_gone_and_rates_stay():
    """Pairs that come in turns of 500 tokens: their counts in windows of 100 are Poisson's."""
    rows = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(500, 0).repeat(40, 1)
    rows[torch.rand(len(rows), generator=torch.Generator().manual_seed(0)) < 0.8] = -1
    ordered, permuted = (
        CoActivationTracker(4, 100, stream=stream, permuted_tokens=5000, totals_from=0)
        for stream in ("ordered", "permuted")
    )
    for tracker in (ordered, permuted):
        tracker.update(rows)
    assert float(ordered.totals.fano()[0]) > 5
    assert float(permuted.totals.fano()[0]) == pytest.approx(1, abs=0.2)
    torch.testing.assert_close(
        permuted.totals.density(), ordered.totals.density(), rtol=0.1, atol=0
    )
    stable, bursty = (permuted.weight_matrix(name).sum() for name in ("stable", "bursty"))
    assert float(bursty / (stable + bursty)) < 0.25
    stable, bursty = (ordered.weight_matrix(name).sum() for name in ("stable", "bursty"))
    assert float(bursty / (stable + bursty)) > 0.75


def test_a_pool_of_another_size_is_refused():
    small, large = (
        CoActivationTracker(N, W, stream="permuted", permuted_tokens=n) for n in (20, 30)
    )
    small.update(zipf_stream(0, N, K))
    with pytest.raises(ValueError, match="state: has 20 rows in its pool, must have 30"):
        large.load_state_dict(small.state_dict())


def test_the_pool_counts_in_the_memory():
    tracker = CoActivationTracker(N, W, stream="permuted", permuted_tokens=1000)
    planned = tracker.planned_bytes(N, K, torch.device("cpu"))
    assert planned["permuted tokens"].n_bytes == 1000 * K * 4
    tracker.update(zipf_stream(0, N, K))
    averages = N * (N - 1) // 2 * 4
    assert tracker.nbytes() == averages + planned["permuted tokens"].n_bytes


@pytest.mark.parametrize("options", [{"permuted_tokens": 0}, {"seed": -1}, {"average_from": -1}])
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        CoActivationTracker(N, **options)


def test_the_transcript_knows_no_such_stream():
    with pytest.raises(InvalidOption, match="stream='permuted': must be one of shuffled, ordered"):
        TranscriptTracker(N, stream="permuted")


@pytest.mark.parametrize("storage", ["dense", "sparse", "reference"])
@given(
    seed=st.integers(0, 99),
    average_from=st.integers(1, 60),
    source=st.sampled_from(["pair", "union", "const"]),
    init=st.sampled_from(["first", "zero"]),
    cut=st.integers(0, 100),
)
@settings(max_examples=20, deadline=None)
def test_averages_that_begin_late_are_those_of_a_tracker_that_does(
    storage, seed, average_from, source, init, cut
):
    rows = zipf_stream(seed, N, K)
    options = {"window_size": 7, "alpha_source": source, "init": init, "storage": storage}
    late = CoActivationTracker(N, average_from=average_from, **options)
    late.update(rows[:cut])
    resumed = CoActivationTracker(N, average_from=average_from, **options)
    resumed.load_state_dict(late.state_dict())
    fresh = CoActivationTracker(N, **options)
    first = -(-average_from // 7) * 7  # of the first window that begins late enough
    fresh.update(rows[first:])
    i, j = torch.triu_indices(N, N, 1)
    for tracker in (late, resumed):
        tracker.update(rows[cut:])
        assert tracker.windows_closed == 100 // 7
        for read in ("rate", "before", "average"):
            assert torch.equal(getattr(tracker, read)(i, j), getattr(fresh, read)(i, j)), read
        assert torch.equal(tracker.weight_matrix(), fresh.weight_matrix())


def test_a_long_average_counts_its_windows_from_its_beginning():
    """With const its α in window m is 1/m: the mean of the rates since then."""
    rows = torch.tensor([[0, 1]] * 8 + [[2, -1]] * 4 + [[0, 1]] * 4 + [[2, -1]] * 4)
    tracker = CoActivationTracker(3, 4, alpha_source="const", average_from=8)
    tracker.update(rows)
    assert float(tracker.weight_matrix("long_average")[0, 1]) == pytest.approx(1 / 3)
    whole = CoActivationTracker(3, 4, alpha_source="const")
    whole.update(rows)
    assert float(whole.weight_matrix("long_average")[0, 1]) == pytest.approx(3 / 5)
