"""The transcript's tracker differs from the method exactly as its docstring says."""

import pytest
import torch

from temporal_sae.tracker import NoTracker, TranscriptTracker

BATCH = torch.tensor([[0, 1], [0, 1], [0, 2], [1, -1], [0, 1], [0, -1]])


def test_a_batch_beyond_the_window_is_one_window():
    tracker = TranscriptTracker(3, window_size=4)
    tracker.update(BATCH[:3])
    assert tracker.windows_closed == 0
    tracker.update(BATCH[3:])
    assert tracker.windows_closed == 1
    assert tracker.last_window.shape[0] == 6


def test_alpha_is_a_rate_over_a_thousand_and_weights_are_the_average():
    tracker = TranscriptTracker(3, window_size=4)
    tracker.update(BATCH)
    # c_00 = 5/6, c_11 = 4/6, c_01 = 3/6; the average starts at 0
    weights = tracker.weight_matrix()
    assert float(weights[0, 1]) == pytest.approx(5 / 6 / 1000 * 0.5)
    assert float(weights[1, 0]) == pytest.approx(4 / 6 / 1000 * 0.5)
    assert float(tracker.weight(torch.tensor(0), torch.tensor(1))) == float(weights[0, 1])
    assert not weights.diagonal().any()


def test_weighting_makes_no_difference_since_s_is_zero():
    tracker = TranscriptTracker(3, window_size=4)
    tracker.update(BATCH)
    tracker.update(BATCH.flip(0))
    assert torch.equal(tracker.weight_matrix("instability"), tracker.weight_matrix("co_activation"))


def test_state_survives():
    tracker, other = TranscriptTracker(3, window_size=4), TranscriptTracker(3, window_size=4)
    tracker.update(BATCH)
    tracker.update(BATCH[:2])
    other.load_state_dict(tracker.state_dict())
    for each in (tracker, other):
        each.update(BATCH[2:])
    assert torch.equal(tracker.weight_matrix(), other.weight_matrix())


def test_no_tracker_counts_tokens_and_holds_nothing():
    tracker, other = NoTracker(3), NoTracker(3)
    tracker.update(BATCH)
    assert tracker.windows_closed == 0
    assert tracker.nbytes() == 0
    assert (tracker.tokens_seen, other.tokens_seen) == (6, 0)
    other.load_state_dict(tracker.state_dict())
    other.update(BATCH[:2])
    assert other.tokens_seen == 8
