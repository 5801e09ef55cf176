"""Totals of pairs by every back end against plain counting."""

import pytest
import torch

from temporal_sae.kernels.averages import pairs_before
from tests.kernels.back_ends import NothingWaits, back_end
from tests.kernels.inputs import WINDOWS, later_pairs

KEY_BITS = 34


@pytest.fixture(params=["naive", "cpu", "triton"])
def name(request):
    return request.param


@pytest.fixture(params=WINDOWS)
def window(request):
    return WINDOWS[request.param]()


def counted(rows, n):
    """n_ij of all pairs i < j, in packed order."""
    mask = torch.zeros(len(rows), n + 1, dtype=torch.int64)
    mask.scatter_(1, torch.where(rows >= 0, rows, n).long(), 1)
    i, j = later_pairs(n)
    return (mask.T @ mask)[i, j]


def test_windows_are_added_to_packed_rows(name, window):
    rows, n = window
    pieces = rows, rows[: len(rows) // 2 + 1].flip(0)
    i, _ = later_pairs(n)
    for lo, hi in ((0, n), (n // 3, max(n // 2, n // 3 + 1))):
        size = pairs_before(n, hi) - pairs_before(n, lo)
        counts, squares = torch.zeros(2, size, dtype=torch.int64)
        for piece in pieces:
            index = back_end("windows", name).index_window(piece, n)
            if name == "triton":
                with NothingWaits():
                    back_end("totals", name).add_dense(counts, squares, lo, hi, index)
            else:
                back_end("totals", name).add_dense(counts, squares, lo, hi, index)
        expected = [counted(piece, n)[(i >= lo) & (i < hi)] for piece in pieces]
        assert torch.equal(counts, sum(expected))
        assert torch.equal(squares, sum(part**2 for part in expected))


@pytest.mark.parametrize("least_pending", [0, 10, 2**20])
def test_a_map_of_totals_is_a_dict(name, least_pending, monkeypatch):
    monkeypatch.setattr(back_end("totals", "naive"), "LEAST_PENDING", least_pending)
    totals, expected = back_end("totals", name).TotalsMap(torch.device("cpu"), KEY_BITS), {}
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        keys = torch.randint(0, 300, (40,), generator=generator).unique()
        keys = torch.where(keys % 7 == 0, 2**KEY_BITS - 1 - keys, keys)
        counts = torch.randint(1, 2**33, keys.shape, generator=generator)
        squares = torch.randint(1, 2**50, keys.shape, generator=generator)
        totals.add(keys, counts, squares)
        for key, *new in zip(*(c.tolist() for c in (keys, counts, squares)), strict=True):
            old = expected.get(key, (0, 0))
            expected[key] = (old[0] + new[0], old[1] + new[1])
    found = [torch.cat(parts) for parts in zip(*totals.pieces(), strict=True)]
    keys, counts, squares = (column.tolist() for column in found)
    assert dict(zip(keys, zip(counts, squares, strict=True), strict=True)) == expected
    assert len(keys) == len(expected)
    asked = torch.tensor([[*list(expected)[:3], 2**20], [*list(expected)[-3:], 2**20 + 1]])
    found = torch.stack(totals.lookup(asked), -1)
    assert found.tolist() == [
        [list(expected.get(k, (0, 0))) for k in row] for row in asked.tolist()
    ]
    assert totals.nbytes() >= 20 * len(expected)


def test_a_map_without_totals(name):
    totals = back_end("totals", name).TotalsMap(torch.device("cpu"), KEY_BITS)
    assert all(not len(column) for part in totals.pieces() for column in part)
    counts, squares = totals.lookup(torch.tensor([3, 4]))
    assert counts.tolist() == squares.tolist() == [0, 0]
