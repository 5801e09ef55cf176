"""Stability measures on streams whose answer is known."""

import math

import pytest
import torch

from temporal_sae.tracker import CoActivationTracker
from temporal_sae.tracker.stability import (
    StabilityMonitor,
    co_activation,
    half_life,
    jaccard,
    pair_stability,
)
from temporal_sae.tracker.weightings import instability

W = 1000


def window(counts, n_pairs=2):
    """A window in which pair p, the latents 2p and 2p + 1, fires counts[p] times."""
    rows = [[2 * p, 2 * p + 1] for p, n in enumerate(counts) for _ in range(n)]
    return torch.tensor(rows + [[-1, -1]] * (W - len(rows)))


def tracker_after(*windows):
    tracker = CoActivationTracker(6, window_size=W)
    for w in windows:
        tracker.update(window(w))
    return tracker


def test_pair_stability_looks_only_at_pairs_with_ten_counts():
    tracker = tracker_after([100, 5], [50, 9])
    measured = pair_stability(tracker)
    assert measured["frequent_pairs"] == 1
    assert measured["pair_stability"] == pytest.approx(0.5)
    z = (0.05 - 0.1) / math.sqrt(0.1 / W)
    assert measured["pair_z_rms"] == pytest.approx(abs(z), rel=1e-5)
    assert measured["pairs_beyond_3_sigma"] == 1


def test_a_pair_that_fell_silent_is_counted_by_what_it_was():
    measured = pair_stability(tracker_after([100], [0]))
    assert measured["frequent_pairs"] == 1
    assert measured["pair_stability"] == 0


def test_entropy_and_phi():
    measured = co_activation(tracker_after([100, 100]), n_top=2)
    assert measured["co_activation_entropy"] == pytest.approx(math.log(2), rel=1e-5)
    assert measured["phi_mean_of_top_pairs"] == pytest.approx(1.0, rel=1e-5)


def test_fano_factor_of_poisson_counts_is_near_one():
    torch.manual_seed(0)
    tracker, monitor = CoActivationTracker(6, window_size=W), StabilityMonitor(n_top=3)
    for _ in range(200):
        counts = torch.poisson(torch.tensor([200.0, 100.0, 50.0])).int().tolist()
        tracker.update(window(counts))
        monitor.observe(tracker, torch.eye(6))
    summary = monitor.summary(tracker)
    assert summary["fano_factor_median"] == pytest.approx(1.0, abs=0.3)
    assert summary["windows_observed"] == 200
    assert summary["top_pairs_overlap_by_windows"]["1"] == 1.0
    assert summary["top_pairs_half_life_windows"] is None


def test_drift_of_a_decoder_that_turns():
    monitor, tracker = StabilityMonitor(), tracker_after([10])
    monitor.observe(tracker, torch.eye(2))
    turned = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    assert monitor.observe(tracker, turned)["decoder_drift"] == pytest.approx(0.6)


def test_state_survives():
    tracker, monitor, other = tracker_after([100, 50]), StabilityMonitor(2), StabilityMonitor(2)
    monitor.observe(tracker, torch.eye(6))
    other.load_state_dict(monitor.state_dict())
    tracker.update(window([50, 100]))
    assert monitor.observe(tracker, torch.eye(6)) == other.observe(tracker, torch.eye(6))
    assert monitor.summary(tracker) == other.summary(tracker)


def test_nothing_to_say_before_the_first_window():
    tracker = CoActivationTracker(6, window_size=W)
    monitor = StabilityMonitor()
    assert monitor.observe(tracker, torch.eye(6)) == {}
    assert monitor.summary(tracker) == {}


def test_jaccard_and_half_life():
    assert jaccard(torch.tensor([1, 2, -1]), torch.tensor([2, 3, -1])) == pytest.approx(1 / 3)
    assert half_life({"1": 0.8, "2": 0.5, "4": 0.4}) == 4.0
    assert half_life({"1": 0.8, "2": 0.7}) is None


@pytest.mark.parametrize(("mean", "expected"), [(1, 0.52), (10, 0.21), (100, 0.075)])
def test_instability_of_a_stationary_pair_is_shot_noise(mean, expected):
    """Expected s against the true mean: why only frequent pairs are judged."""
    torch.manual_seed(0)
    counts = torch.poisson(torch.full((200_000,), float(mean)))
    s = instability(counts, torch.full_like(counts, mean)).mean()
    assert float(s) == pytest.approx(expected, rel=0.08)


def test_pairs_in_the_last_window_are_those_that_fired_in_it():
    tracker = tracker_after([100, 50], [100, 0])
    assert co_activation(tracker, n_top=5)["pairs_in_last_window"] == 1
