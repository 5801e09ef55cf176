"""Counts of pairs by every back end against `naive`, on random and on adversarial windows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.kernels.windows import naive
from tests.kernels.back_ends import NothingWaits, back_end
from tests.kernels.inputs import WINDOWS, later_pairs, random_rows


@pytest.fixture(params=["cpu", "triton"])
def kernels(request):
    return back_end("windows", request.param)


@pytest.fixture(params=WINDOWS)
def window(request):
    return WINDOWS[request.param]()


def without_padding(pairs):
    """i, j and n of listed pairs; what pads their end must be zeros."""
    listed = torch.stack(pairs)
    size = int((listed[2] > 0).sum())
    assert not listed[:, size:].any()
    return listed[:, :size]


def test_sorted_rows(kernels):
    indices = torch.tensor([[5, -1, 2], [-1, -1, -1], [0, 1, 4]])
    expected = torch.tensor([[2, 5, -1], [-1, -1, -1], [0, 1, 4]], dtype=torch.int32)
    for kind in (torch.int64, torch.int32, torch.int16):
        assert torch.equal(kernels.sorted_rows(indices.to(kind), 6), expected)


@pytest.mark.parametrize(
    ("row", "words"),
    [([0, 6], "found 6"), ([-2, 1], "found -2"), ([3, 3], "latent 3 twice in token 1")],
)
@pytest.mark.parametrize("version", ["naive", "cpu"])
def test_wrong_indices_are_named(version, row, words):
    indices = torch.tensor([[0, 1], row])
    with pytest.raises(ValueError, match=f"indices: .*{words}"):
        back_end("windows", version).sorted_rows(indices, 6)


def test_wrong_indices_are_dropped_where_telling_would_wait():
    wrong = [[0, 6, 2, 2], [-2, 1, 2**40, 0], [3, 3, 3, 3], [5, -1, 5, 4]]
    rows = back_end("windows", "triton").sorted_rows(torch.tensor(wrong), 6)
    expected = [[0, 2, -1, -1], [0, 1, -1, -1], [3, -1, -1, -1], [4, 5, -1, -1]]
    assert torch.equal(rows, torch.tensor(expected, dtype=torch.int32))


def test_counts_of_listed_pairs(kernels, window):
    rows, n = window
    i = torch.randint(0, n, (4, 30))
    j = torch.randint(0, n, (4, 30))
    expected = naive.pair_counts(naive.index_window(rows, n), i, j)
    assert torch.equal(kernels.pair_counts(kernels.index_window(rows, n), i, j), expected)


def test_counts_within_tokens(kernels, window):
    rows, n = window
    tokens = torch.randint(0, rows.shape[0], (5,))
    expected = naive.token_counts(naive.index_window(rows, n), tokens)
    assert torch.equal(kernels.token_counts(kernels.index_window(rows, n), tokens), expected)


def test_rows_lists_and_histogram_of_counts(kernels, window):
    rows, n = window
    ours, theirs = kernels.index_window(rows, n), naive.index_window(rows, n)
    for lo, hi in ((0, n), (n // 3, n // 2), (n - 1, n)):
        assert torch.equal(kernels.count_rows(ours, lo, hi), naive.count_rows(theirs, lo, hi))
        histogram = kernels.count_histogram(ours, lo, hi)
        assert torch.equal(histogram, naive.count_histogram(theirs, lo, hi))
        for least in (1, 3):
            listed = without_padding(kernels.distinct_pairs(ours, lo, hi, least))
            expected = torch.stack(naive.distinct_pairs(theirs, lo, hi, least))
            assert torch.equal(listed, expected)


def test_more_rows_of_tiles_than_run_together(monkeypatch):
    kernels = back_end("windows", "triton")
    monkeypatch.setattr(kernels, "TILE_EDGES", ((0, 16),))
    rows, n = random_rows(8, 30, 280, 9), 280
    counts = kernels.count_rows(kernels.index_window(rows, n), 3, n)
    assert torch.equal(counts, naive.count_rows(naive.index_window(rows, n), 3, n))


@pytest.mark.parametrize("n_tokens", [2**16 - 1, 2**16])
def test_counts_at_the_limit_of_16_bits(kernels, n_tokens):
    rows = torch.tensor([[0, 2]], dtype=torch.int32).expand(n_tokens, 2).contiguous()
    index = kernels.index_window(rows, 3)
    listed = without_padding(kernels.distinct_pairs(index, 0, 3))
    assert listed.tolist() == [[0], [2], [n_tokens]]
    assert int(kernels.count_histogram(index, 0, 3)[-1]) == 1


@st.composite
def windows(draw):
    n, tokens = draw(st.integers(1, 150)), draw(st.integers(1, 90))
    return random_rows(draw(st.integers(0, 9999)), tokens, n, draw(st.integers(1, min(n, 30)))), n


def check_counts(kernels, rows, n):
    ours = kernels.index_window(rows, n)
    expected = naive.count_rows(naive.index_window(rows, n), 0, n)
    assert torch.equal(kernels.count_rows(ours, 0, n), expected)
    i, j = later_pairs(n)
    assert torch.equal(kernels.pair_counts(ours, i, j), expected[i, j])


@given(windows())
@settings(max_examples=60, deadline=None)
def test_any_window_on_the_cpu(window):
    check_counts(back_end("windows", "cpu"), *window)


@given(windows())
@settings(max_examples=15, deadline=None)
def test_any_window_on_a_card(window):
    check_counts(back_end("windows", "triton"), *window)


def test_nothing_that_happens_in_a_step_waits():
    kernels = back_end("windows", "triton")
    rows, n = WINDOWS["random"]()
    tokens, latents = torch.arange(5), torch.arange(n)
    with NothingWaits():
        index = kernels.index_window(kernels.sorted_rows(rows.flip(1), n), n)
        kernels.pair_counts(index, latents, latents.flip(0))
        kernels.token_counts(index, tokens)
        kernels.count_rows(index, 0, n)
        for lo, hi, least in ((0, n, 1), (3, 20, 1), (0, n, 3)):
            kernels.distinct_pairs(index, lo, hi, least)


def test_nothing_depends_on_the_number_of_threads(on_1_to_3_threads):
    kernels, (rows, n) = back_end("windows", "cpu"), WINDOWS["more than a block"]()

    def work():
        index = kernels.index_window(rows, n)
        return *kernels.distinct_pairs(index, 0, n), kernels.count_histogram(index, 0, n)

    on_1_to_3_threads(work)
