"""Runs whose weights come from totals after warm-up, with their controls."""

import pytest

from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.tracker import CoActivationTracker
from temporal_sae.training.together import Stopped
from tests.training.test_trainer import (
    B,
    F,
    Synthetic,
    make_parts,
    make_trainer,
    metrics_of,
    same,
    weights,
)

POOL, START = 4 * B, 14 * B
ARMS = {
    "stable": {"weighting": "stable", "floor": 1.0},
    "rates, permuted by rates": {"weighting": "rates", "permuted": "rates"},
    "excess, permuted and sampled": {
        "weighting": "excess",
        "permuted": True,
        "estimator": "sampled",
    },
    "bursty": {"weighting": "bursty", "gram": "activations"},
    "long average": {"weighting": "long_average"},
    "uniform": {"weighting": "uniform"},
}


@pytest.mark.parametrize(("arm", "stream"), zip(ARMS, ["ordered", "permuted"] * 3, strict=True))
def test_arms_begin_together_and_go_on_to_the_bit(tmp_path, arm, stream):
    def make(folder, stop_at=None):
        of_stream = {"stream": stream, "permuted_tokens": POOL}
        after_warm_up = {"totals_from": 3 * B, "average_from": 3 * B, "alpha_source": "const"}
        tracker = CoActivationTracker(F, B, **of_stream, **after_warm_up)
        penalty = OrthogonalityLoss(30.0, start_tokens=START, **ARMS[arm])
        return make_parts(folder, None, tracker, penalty, Synthetic(stop_at, ordered=True))

    undisturbed = make(tmp_path / "whole")
    make_trainer(log_every=1).fit(undisturbed)
    lines = metrics_of(tmp_path / "whole")
    for line in lines:
        assert (line["loss_orthogonality"] > 0) == (line["step"] * B >= START), line["step"]
    assert all(0 <= line.get("bursty_share", 0) <= 1 for line in lines)
    held_back = POOL if stream == "permuted" else 0
    assert lines[-1]["windows_closed"] == (30 * B - held_back) // B
    broken = tmp_path / "broken"
    with pytest.raises(Stopped):
        make_trainer(log_every=1).fit(make(broken, stop_at=20))
    continued = make(broken)
    make_trainer(log_every=1).fit(continued)
    assert same(weights(undisturbed), weights(continued))
    assert metrics_of(broken) == lines


def test_a_penalty_that_waits_does_not_count_as_one_that_does_nothing(tmp_path, caplog):
    for start, told in ((16 * B, 0), (5 * B, 1)):
        penalty = OrthogonalityLoss(1e-9, start_tokens=start)
        parts = make_parts(tmp_path / str(start), penalty=penalty)
        make_trainer(steps=16, log_every=1).fit(parts)
        assert caplog.text.count("does next to nothing") == told


def test_the_tracker_of_a_permuted_stream_sees_the_rows_in_order_before_its_pool(tmp_path):
    ordered, permuted = (
        make_parts(
            tmp_path / stream,
            tracker=CoActivationTracker(F, B, stream=stream, permuted_tokens=1),
            batches=Synthetic(ordered=True),
        )
        for stream in ("ordered", "permuted")
    )
    for parts in (ordered, permuted):
        make_trainer(steps=3, warmup_steps=0).fit(parts)
    # A pool of one row hands on the one before, so that its windows begin a token later.
    assert permuted.tracker.tokens_seen == 3 * B
    assert permuted.tracker.windows_closed == ordered.tracker.windows_closed - 1 == 2
