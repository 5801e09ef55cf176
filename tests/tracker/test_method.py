"""The numbers of the method that were computed by hand."""

import pytest
import torch

from temporal_sae.tracker import CoActivationTracker

FIRST = [[0, 1], [0, 1], [0, 2], [1, -1]]
SECOND = [[0, 1], [0, 2], [0, 2], [2, -1]]


@pytest.fixture(params=["reference", "dense", "sparse"], autouse=True)
def storage(request, monkeypatch):
    """Every number holds in every storage."""
    monkeypatch.setitem(globals(), "STORAGE", request.param)


STORAGE = ""


def tracker_after(*windows, **options):
    tracker = CoActivationTracker(3, window_size=4, storage=STORAGE, **options)
    for window in windows:
        tracker.update(torch.tensor(window))
    return tracker


def pair(read, i, j):
    return float(read(torch.tensor(i), torch.tensor(j)))


@pytest.mark.parametrize(("i", "j", "rate"), [(0, 1, 0.5), (0, 2, 0.25), (1, 2, 0.0), (0, 0, 0.75)])
def test_rates_of_the_first_window(i, j, rate):
    tracker = tracker_after(FIRST)
    assert pair(tracker.rate, i, j) == rate
    assert pair(tracker.rate, j, i) == rate


def test_first_window_with_init_first():
    tracker = tracker_after(FIRST)
    assert pair(tracker.weight, 0, 1) == 0.5
    assert pair(tracker.weight, 0, 2) == 0.25
    assert pair(tracker.weight, 1, 2) == 0
    assert pair(tracker.average, 0, 1) == 0.5


def test_first_window_with_init_zero():
    tracker = tracker_after(FIRST, init="zero")
    assert pair(tracker.weight, 0, 1) == 1.0
    assert pair(tracker.weight, 0, 2) == 0.5
    assert pair(tracker.average, 0, 1) == pytest.approx(0.001)
    assert pair(tracker.average, 0, 2) == pytest.approx(0.00025)


def test_second_window():
    tracker = tracker_after(FIRST, SECOND)
    assert pair(tracker.weight, 0, 1) == pytest.approx(0.375)
    assert pair(tracker.weight, 0, 2) == pytest.approx(0.75)
    assert pair(tracker.average, 0, 1) == pytest.approx(0.49975)
    assert pair(tracker.average, 0, 2) == pytest.approx(0.2505)


@pytest.mark.parametrize(
    ("weighting", "w01", "w02"),
    [
        ("instability", 0.375, 0.75),
        ("co_activation", 0.25, 0.5),
        ("stability", 0.25 * 1.5, 0.5 * 1.5),
        ("instability_only", 0.25 * 0.5, 0.5 * 0.5),
        ("long_average", 0.49975, 0.2505),
    ],
)
def test_weightings(weighting, w01, w02):
    tracker = tracker_after(FIRST, SECOND)
    weights = tracker.weight_matrix(weighting)
    assert float(weights[0, 1]) == pytest.approx(w01)
    assert float(weights[2, 0]) == pytest.approx(w02)
    assert float(tracker.weight_sum(weighting)) == pytest.approx(2 * (w01 + w02))
    i, j = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 1])
    assert tracker.weight(i, j, weighting).tolist() == pytest.approx([w01, w02, 0.0])


def test_alpha_union_counts_tokens_in_which_either_fires():
    tracker = tracker_after(FIRST, SECOND, alpha_source="union")
    # second window: n_00 = 3, n_11 = 1, n_01 = 1, so 3 tokens in which 0 or 1 fires
    assert pair(tracker.average, 0, 1) == pytest.approx(0.5 + 0.003 * (0.25 - 0.5))
    # 1 and 2 never fire together, 4 tokens have either, and c̄ stays 0
    assert pair(tracker.average, 1, 2) == 0


def test_alpha_const_is_the_running_mean_until_its_floor():
    mean = tracker_after(FIRST, SECOND, alpha_source="const")
    assert pair(mean.average, 0, 1) == pytest.approx((0.5 + 0.25) / 2)
    floored = tracker_after(FIRST, SECOND, alpha_source="const", alpha_floor=0.8)
    assert pair(floored.average, 0, 1) == pytest.approx(0.2 * 0.5 + 0.8 * 0.25)


def test_alpha_is_capped():
    tracker = tracker_after(FIRST, SECOND, alpha_scale=1.0, alpha_cap=0.1)
    assert pair(tracker.average, 0, 1) == pytest.approx(0.9 * 0.5 + 0.1 * 0.25)


def test_a_pair_that_stops_keeps_its_average_with_alpha_pair():
    tracker = tracker_after(FIRST, [[2, -1]] * 4, alpha_scale=1.0)
    assert pair(tracker.average, 0, 1) == 0.5
    assert pair(tracker.weight, 0, 1) == 0


def test_nothing_holds_before_the_first_window_closes():
    tracker = tracker_after(FIRST[:3])
    assert tracker.windows_closed == 0
    assert tracker.tokens_seen == 3
    assert float(tracker.weight_sum()) == 0


@pytest.mark.parametrize("weighting", ["co_activation", "instability", "long_average"])
def test_the_sum_of_the_weights_is_that_of_the_newest_window(weighting):
    """It is computed once a window: what was asked of one must not be told of the next."""
    tracker = tracker_after(FIRST, init="zero")
    other = tracker_after(init="zero")
    for window in (SECOND, FIRST):
        expected = float(tracker.weight_matrix(weighting).sum())
        assert float(tracker.weight_sum(weighting)) == pytest.approx(expected)
        state = tracker.state_dict()
        tracker.update(torch.tensor(window))
        expected = float(tracker.weight_matrix(weighting).sum())
        assert float(tracker.weight_sum(weighting)) == pytest.approx(expected)
        other.load_state_dict(state)
        expected = float(other.weight_matrix(weighting).sum())
        assert float(other.weight_sum(weighting)) == pytest.approx(expected)
