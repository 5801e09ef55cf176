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
    of_totals,
    pair_stability,
    top_pairs,
)
from temporal_sae.tracker.statistics import instability

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


def many_latents(n_windows):
    """A tracker of 1000 latents after windows of one pair that fires 100 times."""
    tracker = CoActivationTracker(1000, window_size=W)
    for _ in range(n_windows):
        tracker.update(window([100]))
    return tracker


def test_looks_are_rare_where_a_look_is_dear_beside_the_training():
    """A look costs as much as reading 509,700 averages; training a window, as 12,083,000."""
    tracker, monitor = many_latents(0), StabilityMonitor()
    looked_at, W_dec = [], torch.randn(1000, 2)
    for number in range(1, 40):
        tracker.update(window([100]))
        if "pair_stability" in monitor.observe(tracker, W_dec):
            looked_at.append(number)
    assert looked_at == [1, 10, 19, 28, 37]
    assert monitor.summary(tracker)["windows_observed"] == 5


def test_more_weights_to_train_allow_more_looks():
    tracker, monitor = many_latents(1), StabilityMonitor()
    W_dec = torch.randn(1000, 3000)
    monitor.observe(tracker, W_dec)
    tracker.update(window([100]))
    assert "pair_stability" in monitor.observe(tracker, W_dec)


def test_a_continued_monitor_looks_at_the_same_windows():
    tracker, monitor, other = many_latents(1), StabilityMonitor(), StabilityMonitor()
    W_dec = torch.randn(1000, 2)
    monitor.observe(tracker, W_dec)
    for _ in range(5):
        tracker.update(window([100]))
    other.load_state_dict(monitor.state_dict())
    for _ in range(20):
        tracker.update(window([100]))
        assert other.observe(tracker, W_dec) == monitor.observe(tracker, W_dec)
    assert other.summary(tracker) == monitor.summary(tracker)


def test_of_many_latents_some_rows_stand_for_the_decoder():
    tracker, monitor = CoActivationTracker(5000, window_size=W), StabilityMonitor()
    W_dec = torch.randn(5000, 3)
    monitor.observe(tracker, W_dec)
    held = monitor.state_dict()["decoder"]
    assert held.shape == (1667, 3)
    (planned,) = monitor.planned_bytes(5000, 3).values()
    assert held.untyped_storage().nbytes() * 4 == planned.n_bytes
    assert monitor.observe(tracker, -W_dec)["decoder_drift"] == pytest.approx(-1)


def test_a_checkpoint_from_before_holds_the_whole_decoder():
    tracker, monitor = CoActivationTracker(5000, window_size=W), StabilityMonitor()
    W_dec = torch.randn(5000, 3)
    monitor.load_state_dict({"window_at": [], "window_sizes": [], "drift": 0.5, "decoder": W_dec})
    assert monitor.observe(tracker, W_dec)["decoder_drift"] == pytest.approx(1)


def test_the_top_pairs_are_the_same_from_the_frequent_ones():
    torch.manual_seed(0)
    tracker = CoActivationTracker(40, window_size=W)
    popularity = torch.rand(40) ** 3 + 0.01
    tracker.update(torch.multinomial(popularity.expand(3 * W, 40), 5))
    frequent = tracker.pairs(10)
    assert len(frequent[0]) > 30
    for n in (1, 5, 30, 700):
        assert torch.equal(top_pairs(tracker, n, frequent), top_pairs(tracker, n))


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


def test_what_totals_tell_of_time_is_observed_and_summed_up():
    bursts = [[400, 0], [0, 400], [400, 0], [0, 400]]
    tracker = CoActivationTracker(6, window_size=W, totals_from=0)
    for counts in bursts:
        tracker.update(window(counts))
    monitor = StabilityMonitor(n_top=2)
    measured = monitor.observe(tracker, torch.eye(6))
    # μ 200, V 160000/3: of c_long 1 - μ / V are bursts; D_ii = (V - μ) / μ².
    variance = 160_000 / 3
    assert measured["bursty_share"] == pytest.approx(1 - 200 / variance, rel=1e-5)
    assert measured["latent_burstiness_median"] == pytest.approx((variance - 200) / 200**2)
    assert measured.items() >= of_totals(tracker).items()
    assert monitor.summary(tracker)["bursty_share"] == measured["bursty_share"]
    assert of_totals(tracker_after([400, 0], [0, 400])) == {}
    alone = CoActivationTracker(6, window_size=4, totals_from=0)
    alone.update(torch.zeros(8, 1, dtype=torch.int64))
    assert of_totals(alone) == {}  # no pair, and no latent with ten counts
