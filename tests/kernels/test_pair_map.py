"""The map from pairs to averages by every back end against a Python dict."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.back_ends import NothingWaits, back_end

BACK_ENDS = ["naive", "cpu", "triton"]
KEY_BITS = 34
LAST_KEY = 2**KEY_BITS - 1


def new_map(name):
    return back_end("pair_map", name).PairMap(torch.device("cpu"), KEY_BITS)


@pytest.fixture(params=BACK_ENDS)
def pairs(request):
    return new_map(request.param)


def tensors(values):
    """Keys and float32 values of a dict."""
    keys = torch.tensor(list(values), dtype=torch.int64)
    return keys, torch.tensor(list(values.values()), dtype=torch.float32)


def as_dict(keys, values):
    return dict(zip(keys.tolist(), values.tolist(), strict=True))


def check(pairs, expected):
    """The map holds exactly what a dict holds, by every way of asking."""
    ordered = dict(sorted(expected.items()))
    keys, values = pairs.items()
    assert keys.tolist() == list(ordered)
    assert values.tolist() == list(ordered.values())
    assert len(pairs) == len(expected) <= pairs.at_most
    pieces = [as_dict(*piece) for piece in pairs.pieces()]
    assert sorted(item for piece in pieces for item in piece.items()) == list(ordered.items())


def random_keys(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(0, LAST_KEY + 1, (2 * n,), generator=generator).unique()
    return keys[torch.randperm(len(keys), generator=generator)[:n]]


def test_an_empty_map(pairs):
    assert len(pairs) == pairs.at_most == 0
    assert pairs.lookup(torch.tensor([[0, 5], [LAST_KEY, 1]])).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    pairs.store(torch.empty(0, dtype=torch.int64), torch.empty(0))
    pairs.store(torch.tensor([-1, -1]), torch.tensor([1.0, 2.0]))
    pairs.drop_below(0.5)
    pairs.update_all(lambda keys, values: values + 1)
    check(pairs, {})


def test_values_are_found_overwritten_and_missed(pairs):
    pairs.store(torch.tensor([7, -1, LAST_KEY, 0]), torch.tensor([0.5, 9.0, 0.25, 0.0]))
    pairs.store(torch.tensor([8, 7, -1]), torch.tensor([2.0, 1.0, 9.0]))
    found = pairs.lookup(torch.tensor([[7, 8, LAST_KEY], [0, 1, LAST_KEY - 1]]))
    assert found.tolist() == [[1.0, 2.0, 0.25], [0.0, 0.0, 0.0]]
    assert found.dtype == torch.float32
    check(pairs, {0: 0.0, 7: 1.0, 8: 2.0, LAST_KEY: 0.25})


def test_growth_over_several_doublings(pairs):
    keys, values = random_keys(6000), torch.rand(6000)
    for part in range(0, 6000, 500):
        pairs.store(keys[part : part + 500], values[part : part + 500])
        assert pairs.at_most >= len(pairs) == part + 500
    assert torch.equal(pairs.lookup(keys), values)
    assert not pairs.lookup((keys + 1)[~torch.isin(keys + 1, keys)]).any()
    check(pairs, as_dict(keys, values))


def test_neighbouring_keys_and_one_great_store(pairs):
    keys = torch.cat([torch.arange(3000), torch.arange(3000) * 2**20 + 5000])
    pairs.store(keys, keys.float())
    assert torch.equal(pairs.lookup(keys), keys.float())
    assert not pairs.lookup(keys[:3000] + 2**21 + 5001).any()


def test_storing_the_same_keys_again_takes_no_more_room(pairs):
    keys = random_keys(1000)
    pairs.store(keys, torch.rand(1000))
    for _ in range(4):
        pairs.store(keys, torch.rand(1000))
    before = pairs.nbytes()
    for _ in range(12):
        pairs.store(keys, torch.rand(1000))
    assert (len(pairs), pairs.nbytes()) == (1000, before)


def test_bytes_are_bounded_by_the_number_of_keys(pairs):
    keys = random_keys(20_000)
    for part in keys.split(1000):
        pairs.store(part, torch.rand(1000))
    assert 8 * 20_000 <= pairs.nbytes() <= 80 * 20_000


def test_dropping_small_values(pairs):
    keys, values = random_keys(3000), torch.rand(3000)
    pairs.store(keys, values)
    bound = float(values[17])
    pairs.drop_below(bound)
    kept = {k: v for k, v in as_dict(keys, values).items() if v >= bound}
    assert 0 < len(kept) < 3000
    check(pairs, kept)
    assert pairs.at_most == len(kept)
    assert torch.equal(pairs.lookup(keys), torch.where(values >= bound, values, 0.0))
    pairs.store(keys, values)
    check(pairs, as_dict(keys, values))


def test_changing_all_values_at_once(pairs):
    keys, values = random_keys(900), torch.rand(900)
    pairs.store(keys, values)
    pairs.update_all(lambda k, old: torch.where(k % 2 == 0, old / 2, old + k % 7))
    expected = torch.where(keys % 2 == 0, values / 2, values + keys % 7)
    check(pairs, as_dict(keys, expected))


keys_of = st.integers(0, 40) | st.integers(0, LAST_KEY)
values_of = st.floats(0, 2, width=32)
actions = st.one_of(
    st.tuples(st.just("store"), st.dictionaries(keys_of, values_of, max_size=60)),
    st.tuples(st.just("drop"), values_of),
    st.tuples(st.just("halve"), st.none()),
)


def act(pairs, model, action, argument):
    if action == "store":
        pairs.store(*tensors({**argument, -1: 1.0}))
        model.update(argument)
    elif action == "drop":
        pairs.drop_below(argument)
        for key in [key for key, value in model.items() if value < argument]:
            del model[key]
    else:
        pairs.update_all(lambda keys, values: values / 2)
        model.update({key: float(torch.tensor(value) / 2) for key, value in model.items()})


@pytest.mark.parametrize("name", BACK_ENDS)
@given(st.lists(actions, max_size=8), st.lists(keys_of, max_size=20))
@settings(max_examples=30, deadline=None)
def test_any_history(name, history, missing):
    pairs, model = new_map(name), {}
    for action, argument in history:
        act(pairs, model, action, argument)
        check(pairs, model)
    asked = [*model, *missing]
    found = pairs.lookup(torch.tensor(asked, dtype=torch.int64))
    assert found.tolist() == [model.get(key, 0.0) for key in asked]


def test_a_map_that_need_not_grow_does_not_wait():
    pairs, keys = new_map("triton"), torch.arange(37)
    with NothingWaits():
        pairs.store(keys, keys.float())
        pairs.update_all(lambda keys, values: values + keys)
        pairs.lookup(keys)
    assert torch.equal(pairs.lookup(keys), 2.0 * keys)
