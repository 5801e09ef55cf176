"""The shuffle buffer, measured on integers."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.activations import Rows, ShuffleBuffer


def numbered(numbers):
    """Rows that are their own numbers, with places that tell the number too."""
    return Rows(numbers, torch.stack([numbers * 7, numbers // 10, numbers % 10], 1).int())


def drain(capacity, chunk, batch, n, seed=0):
    """Push 0 … n - 1 through a buffer; returns the order in which they leave."""
    buffer, source, out = ShuffleBuffer(capacity, seed), numbered(torch.arange(n)).split(chunk), []
    while True:
        while not buffer.full:
            rows = next(source, None)
            if rows is None:
                break
            buffer.add(rows)
        if buffer.count < batch:
            out.append(buffer.held())
            break
        out.append(buffer.draw(batch))
    numbers = torch.cat([rows.x for rows in out])
    assert torch.equal(torch.cat([rows.places for rows in out]), numbered(numbers).places)
    return numbers


@given(st.integers(1, 50), st.integers(1, 40), st.integers(1, 30), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost_or_doubled(capacity, chunk, batch, n):
    out = drain(max(capacity, batch), chunk, batch, n)
    assert sorted(out.tolist()) == list(range(n))


@pytest.mark.parametrize("capacity", [512, 2048])
def test_mixing_width(capacity):
    """Neighbours in the text land about `capacity` rows apart; 32-row batches hold none."""
    n = capacity * 40
    out = drain(capacity, 127, 32, n)
    place = torch.empty(n, dtype=torch.int64)
    place[out] = torch.arange(n)
    inner = slice(2 * capacity, n - 4 * capacity)  # away from the start and the end
    apart = (place[1:] - place[:-1]).abs()[inner].float()
    assert float(apart.mean()) == pytest.approx(capacity, rel=0.15)
    same_batch = (place[1:] // 32 == place[:-1] // 32)[inner].float()
    assert float(same_batch.mean()) < 2 * 32 / capacity


def test_continues_exactly():
    buffer = ShuffleBuffer(50, seed=3)
    buffer.add(numbered(torch.arange(70)))
    buffer.draw(10)
    other = ShuffleBuffer(50, seed=99)
    other.load_state_dict(copy.deepcopy(buffer.state_dict()))
    for each in (buffer, other):
        each.add(numbered(torch.arange(100, 120)))
    for _ in range(5):
        one, same = buffer.draw(9), other.draw(9)
        assert torch.equal(one.x, same.x) and torch.equal(one.places, same.places)


def test_rows_of_which_nothing_is_known_have_no_places():
    buffer = ShuffleBuffer(4, seed=0)
    buffer.add(Rows(torch.arange(6.0).view(6, 1)))
    other = ShuffleBuffer(4, seed=1)
    other.load_state_dict(copy.deepcopy(buffer.state_dict()))
    for each in (buffer, other):
        assert each.draw(3).places is None and each.held().places is None


def test_seed_decides_the_order():
    assert torch.equal(drain(64, 10, 8, 300), drain(64, 10, 8, 300))
    assert not torch.equal(drain(64, 10, 8, 300), drain(64, 10, 8, 300, seed=1))


def test_cannot_draw_more_than_there_is():
    buffer = ShuffleBuffer(8, seed=0)
    with pytest.raises(ValueError, match="cannot draw 1 rows from a buffer of 0"):
        buffer.draw(1)
