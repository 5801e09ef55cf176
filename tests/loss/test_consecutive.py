"""The transcript's older penalty."""

import pytest
import torch

from temporal_sae.latents import Latents
from temporal_sae.loss import ConsecutiveLoss
from temporal_sae.loss.consecutive import consecutive_scores
from temporal_sae.tracker import CoActivationTracker, TranscriptTracker

WINDOW = torch.tensor([[0, -1], [1, -1], [0, 1], [2, -1], [-1, -1]])


def test_scores_by_hand():
    scores = consecutive_scores(WINDOW, 3)
    # 0→1 at t = 0, 1→0 and 1→1 at t = 1, 0→1 no more, 0→2 and 1→2 at t = 2; four steps
    assert float(scores[0, 1]) == pytest.approx((1 + 1) / (2 * 4))
    assert float(scores[1, 2]) == pytest.approx(1 / 8)
    assert float(scores[1, 1]) == pytest.approx(2 / 8)
    assert torch.equal(scores, scores.T)


def test_penalty_by_hand():
    tracker = CoActivationTracker(3, window_size=5)
    tracker.update(WINDOW)
    latents = Latents(torch.tensor([[2.0, 3.0]]), torch.tensor([[0, 1]]))
    # c_01 = 1/5, q_01 = 1/4, f_0ᵀf_1 = 6; both orders, over F²
    expected = 2 * 0.2 * (1 - 0.05 * 0.25) * 36 / 9
    value = ConsecutiveLoss(ortho_weight=1.0)(torch.eye(3), tracker, latents)
    assert float(value) == pytest.approx(expected)


def test_zero_without_a_window_or_a_weight():
    tracker = CoActivationTracker(3, window_size=5)
    latents = Latents(torch.ones(1, 2), torch.tensor([[0, 1]]))
    assert float(ConsecutiveLoss()(torch.eye(3), tracker, latents)) == 0
    tracker.update(WINDOW)
    assert float(ConsecutiveLoss(0.0)(torch.eye(3), tracker, latents)) == 0


def test_it_weighs_by_rates_with_the_transcripts_tracker_too():
    plain, transcript = CoActivationTracker(3, window_size=5), TranscriptTracker(3, window_size=5)
    latents = Latents(torch.tensor([[2.0, 3.0]]), torch.tensor([[0, 1]]))
    for tracker in (plain, transcript):
        tracker.update(WINDOW)
    values = [float(ConsecutiveLoss()(torch.eye(3), t, latents)) for t in (plain, transcript)]
    assert values[0] == values[1] > 0
