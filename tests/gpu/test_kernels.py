"""Counts and averages of pairs on a card against `naive` on the CPU; nothing waits for them."""

from contextlib import contextmanager
from importlib import import_module

import pytest
import torch

from temporal_sae.kernels import averages, pair_map, windows
from temporal_sae.kernels.averages import CONST, PAIR, UNION, AlphaStep, pairs_before

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
pytest.importorskip("triton")

STEPS = [AlphaStep(PAIR, 0.1, 3.0), AlphaStep(UNION, 0.3, 7.0), AlphaStep(CONST, 0.25, 1.0)]


def random_rows(tokens, n, k, full=0.8):
    popularity = 1 / torch.arange(1, n + 1).float()
    indices = torch.multinomial(popularity.expand(tokens, n), k)
    return windows.naive.sorted_rows(indices.masked_fill(torch.rand(tokens, k) >= full, -1), n), n


def one_everywhere():
    others = (torch.arange(65)[:, None] + torch.arange(3)) % 39
    return windows.naive.sorted_rows(torch.cat([others, torch.full((65, 1), 39)], 1), 40), 40


WINDOWS = {
    "tiles of 128": lambda: random_rows(1000, 5000, 32),
    "tiles of 64": lambda: random_rows(333, 1300, 20),
    "tiles of 32": lambda: random_rows(61, 131, 7),
    "wide": lambda: random_rows(33, 200, 150),
    "mostly empty": lambda: random_rows(64, 4100, 5, full=0.2),
    "empty": lambda: (torch.full((8, 3), -1, dtype=torch.int32), 5),
    "one token": lambda: random_rows(1, 12, 5),
    "one slot": lambda: random_rows(20, 9, 1),
    "one latent": lambda: (torch.zeros(10, 1, dtype=torch.int32), 1),
    "one everywhere": one_everywhere,
    "many tokens": lambda: (torch.tensor([[0, 2]]).int().expand(2**16, 2).contiguous(), 3),
}


@pytest.fixture(params=WINDOWS)
def window(request):
    return WINDOWS[request.param]()


@contextmanager
def nothing_waits():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def twice(work, *arguments):
    """The result of some work that must not wait, but for its compilation the first time."""
    work(*arguments)
    with nothing_waits():
        return work(*arguments)


def test_sorted_rows():
    indices = torch.tensor([[5, -1, 2, 9], [-2, -1, -1, -1], [0, 2**40, 4, 0]], device="cuda")
    rows = twice(windows.sorted_rows, indices, 6)
    assert rows.dtype == torch.int32
    assert rows.tolist() == [[2, 5, -1, -1], [-1, -1, -1, -1], [0, 4, -1, -1]]


def test_counts(window):
    rows, n = window
    theirs = windows.naive.index_window(rows, n)
    on_card = rows.cuda()
    ours = twice(windows.index_window, on_card, n)
    i, j = torch.randint(0, n, (2, 7, 300))
    tokens = torch.randint(0, rows.shape[0], (20,))
    i_card, j_card, tokens_card = i.cuda(), j.cuda(), tokens.cuda()
    counts = twice(windows.pair_counts, ours, i_card, j_card)
    assert torch.equal(counts.cpu(), windows.naive.pair_counts(theirs, i, j))
    counts = twice(windows.token_counts, ours, tokens_card)
    assert torch.equal(counts.cpu(), windows.naive.token_counts(theirs, tokens))


def test_rows_lists_and_histogram_of_counts(window):
    rows, n = window
    ours, theirs = windows.index_window(rows.cuda(), n), windows.naive.index_window(rows, n)
    for lo, hi in ((0, n), (n // 3, n // 2), (n - 1, n)):
        counts = twice(windows.count_rows, ours, lo, hi)
        assert torch.equal(counts.cpu(), windows.naive.count_rows(theirs, lo, hi))
        histogram = windows.count_histogram(ours, lo, hi)
        assert torch.equal(histogram.cpu(), windows.naive.count_histogram(theirs, lo, hi))
        for least in (1, 3):
            listed = torch.stack(twice(windows.distinct_pairs, ours, lo, hi, least)).cpu()
            expected = torch.stack(windows.naive.distinct_pairs(theirs, lo, hi, least))
            assert torch.equal(listed[:, : expected.shape[1]], expected)
            assert not listed[:, expected.shape[1] :].any()


@pytest.mark.parametrize("cost_of_listing", [2**40, 0])
@pytest.mark.parametrize("step", STEPS)
def test_closing_windows(monkeypatch, window, step, cost_of_listing):
    kernels = import_module("temporal_sae.kernels.averages.triton")
    monkeypatch.setattr(kernels, "COST_OF_LISTING", cost_of_listing)
    rows, n = window
    pieces = rows, rows[: rows.shape[0] // 2 + 1].flip(0), rows.flip(0)
    for lo, hi in ((0, n), (n // 3, max(n // 2, n // 3 + 1))):
        expected = torch.rand(pairs_before(n, hi) - pairs_before(n, lo))
        expected *= torch.rand(len(expected)) < 0.5
        on_card, previous = expected.cuda(), (None, None)
        for piece in pieces:
            piece_on_card = piece.cuda()
            index = windows.naive.index_window(piece, n), windows.index_window(piece_on_card, n)
            total = averages.naive.close_dense(expected, lo, hi, previous[0], step, index[0])
            averages.close_dense(on_card.clone(), lo, hi, previous[1], step, index[1])  # compiled
            with nothing_waits():
                found = averages.close_dense(on_card, lo, hi, previous[1], step, index[1])
            assert torch.equal(on_card.cpu(), expected)
            torch.testing.assert_close(found.cpu(), total, rtol=1e-6, atol=1e-12)
            previous = index


def test_a_map_of_many_keys():
    ours = pair_map.PairMap(torch.device("cuda"), 40)
    theirs = pair_map.naive.PairMap(torch.device("cpu"), 40)
    keys = torch.cat([torch.arange(50_000), torch.randint(0, 2**34, (400_000,))]).unique()
    for _ in range(4):
        part = keys[torch.randperm(len(keys))[:200_000]]
        padded = torch.cat([part, torch.full((1000,), -1)])
        values = torch.rand(len(padded))
        ours.store(padded.cuda(), values.cuda())
        theirs.store(padded, values)
        assert [t.tolist() for t in ours.items()] == [t.tolist() for t in theirs.items()]
        assert torch.equal(ours.lookup((keys + 1).cuda()).cpu(), theirs.lookup(keys + 1))
    for pairs in (ours, theirs):
        pairs.drop_below(0.5)
        pairs.update_all(lambda keys, values: torch.where(keys % 3 == 0, values * 2, values))
    assert [t.tolist() for t in ours.items()] == [t.tolist() for t in theirs.items()]
    assert len(ours) == ours.at_most == len(theirs)


def test_a_map_that_need_not_grow_does_not_wait():
    pairs = pair_map.PairMap(torch.device("cuda"), 40)
    keys = torch.randperm(10_000, device="cuda")
    values = torch.rand(10_000, device="cuda")
    pairs.store(keys, values)
    pairs.update_all(lambda keys, values: values + 0)
    with nothing_waits():
        pairs.store(keys[:50], values[:50])
        found = pairs.lookup(keys)
        pairs.update_all(lambda keys, values: values + 0)
    assert torch.equal(found, values)


def test_a_second_card_works_too():
    if torch.cuda.device_count() < 2:
        pytest.skip("one card")
    rows, n = random_rows(61, 131, 7)
    counts = windows.count_rows(windows.index_window(rows.to("cuda:1"), n), 0, n)
    expected = windows.naive.count_rows(windows.naive.index_window(rows, n), 0, n)
    assert torch.equal(counts.cpu(), expected)
