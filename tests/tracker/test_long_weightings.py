"""Weightings from totals: hand-computed, against the definitions, and as penalties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.atlas import statistics
from temporal_sae.errors import InvalidOption
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.tracker import CoActivationTracker, NoTracker, TranscriptTracker
from tests.tracker.test_storages import zipf_stream

STORAGES = ["dense", "sparse", "reference"]
LONG = ["rates", "excess", "stable", "bursty"]
N, K, W = 12, 4, 10
OF_METHOD = [[0, 1], [0, 1], [0, 2], [1, -1], [0, 1], [0, 2], [0, 2], [2, -1]]
BURST = [[0, 1]] * 4 + [[2, -1]] * 4


def tracked(rows, n=N, window_size=W, **options):
    tracker = CoActivationTracker(n, window_size, **{"totals_from": 0} | options)
    tracker.update(torch.as_tensor(rows))
    return tracker


def of_pairs(tracker, weighting, pairs=((0, 1), (0, 2), (1, 2))):
    i, j = torch.tensor(pairs).T
    return tracker.weight(i, j, weighting).tolist()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    ("rows", "weighting", "expected"),
    [
        # N 8; n 6, 4, 4; n_01 and n_02 3, in windows 2 + 1 and 1 + 2: V .5 below μ 1.5, so D is 0.
        (OF_METHOD, "rates", [0.375, 0.375, 0.25]),
        (OF_METHOD, "excess", [0, 0, 0]),
        (OF_METHOD, "stable", [0.375, 0.375, 0]),
        (OF_METHOD, "bursty", [0, 0, 0]),
        # n_01 in windows 4 + 0: μ 2, V 8, D 1.5, D μ 3.
        (BURST, "rates", [0.25, 0.25, 0.25]),
        (BURST, "excess", [0.25, 0, 0]),
        (BURST, "stable", [0.125, 0, 0]),
        (BURST, "bursty", [0.375, 0, 0]),
    ],
)
def test_two_windows_by_hand(storage, rows, weighting, expected):
    tracker = tracked(rows, 3, 4, storage=storage)
    assert of_pairs(tracker, weighting) == pytest.approx(expected)
    matrix = tracker.weight_matrix(weighting)
    assert [float(matrix[i, j]) for i, j in ((0, 1), (0, 2), (1, 2))] == pytest.approx(expected)


def definitions(rows, n, window_size, first_token):
    """w of all pairs by METHOD's definitions, from the counts of each window; None without any."""
    mask = np.zeros((len(rows), n + 1))
    np.put_along_axis(mask, np.where(rows >= 0, rows, n), 1, axis=1)
    starts = range(0, len(rows) - window_size + 1, window_size)
    kept = [mask[a : a + window_size, :n] for a in starts if a >= first_token]
    if len(kept) < 2:
        return None
    counts = np.stack([window.T @ window for window in kept])
    n_tokens = len(kept) * window_size
    c = counts.sum(0) / n_tokens
    p = np.diag(c)
    mean, variance = counts.mean(0), counts.var(0, ddof=1)
    d = np.maximum(0, np.divide(variance - mean, mean**2, where=mean > 0, out=0 * mean))
    found = {
        "rates": np.outer(p, p),
        "excess": np.maximum(0, c - np.outer(p, p)),
        "stable": c / (1 + d * mean),
        "bursty": c * d * mean / (1 + d * mean),
        "c": c,
    }
    return {name: w * (1 - np.eye(n)) for name, w in found.items()}


@pytest.mark.parametrize("storage", STORAGES)
@given(
    seed=st.integers(0, 999),
    window_size=st.integers(1, 30),
    first_token=st.integers(0, 60),
    piece=st.integers(1, 100),
)
@settings(max_examples=20, deadline=None)
def test_all_pairs_by_the_definitions(storage, seed, window_size, first_token, piece):
    rows = zipf_stream(seed, N, K)
    options = {"window_size": window_size, "storage": storage, "totals_from": first_token}
    tracker = CoActivationTracker(N, **options)
    for part in rows.split(piece):
        tracker.update(part)
    expected = definitions(rows.numpy(), N, window_size, first_token)
    for weighting in LONG:
        ours = tracker.weight_matrix(weighting).numpy()
        if expected is None:
            assert weighting in ("rates", "excess") or not ours.any()
            continue
        np.testing.assert_allclose(ours, expected[weighting], rtol=1e-5, atol=1e-7)
        divisor = "c" if weighting in ("stable", "bursty") else weighting
        total = float(tracker.weight_sum(weighting))
        assert total == pytest.approx(expected[divisor].sum(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("weighting", "windows"), [*zip(LONG, (1, 1, 2, 2), strict=True)])
def test_no_weight_before_the_totals_hold_enough_windows(weighting, windows):
    window = [[0, 1], [0, 1], [2, -1], [2, -1]]
    rows = torch.tensor(window * 6)
    tracker = CoActivationTracker(3, 4, totals_from=5)  # so that the third window is the first
    loss = OrthogonalityLoss(1.0, weighting=weighting, floor=1.0)
    W_dec = torch.randn(3, 2)
    assert loss.begins_at(tracker) == (2 + windows) * 4
    for number, window in enumerate(rows.split(4), 1):
        tracker.update(window)
        begun = number >= 2 + windows
        assert tracker.has_weights(weighting) == loss.is_at_work(tracker) == begun
        assert bool(tracker.weight_sum(weighting) > 0) == begun
        assert bool(loss(W_dec, tracker) > 0) == begun
        assert begun or not tracker.relative_weights(torch.arange(4), weighting).any()


@pytest.mark.parametrize("weighting", LONG)
def test_totals_are_needed(weighting):
    said = f"weighting='{weighting}': must be used with tracker.totals_from=TOKENS"
    loss, W_dec = OrthogonalityLoss(weighting=weighting), torch.randn(3, 2)
    for tracker in (CoActivationTracker(3), TranscriptTracker(3), NoTracker(3)):
        with pytest.raises(InvalidOption, match=said):
            loss(W_dec, tracker)
    with pytest.raises(InvalidOption, match=said):
        CoActivationTracker(3).weight_matrix(weighting)


def overlaps(W_dec, penalty="square"):
    """g of all ordered pairs."""
    directions = torch.nn.functional.normalize(W_dec.double(), dim=-1)
    cosine = directions @ directions.T
    return cosine.square() if penalty == "square" else cosine.abs()


@pytest.mark.parametrize("penalty", ["square", "abs"])
@pytest.mark.parametrize("weighting", LONG)
def test_the_exact_penalty_is_the_sum_over_all_pairs(weighting, penalty):
    rows = zipf_stream(1, N, K, tokens=60)
    tracker, W_dec = tracked(rows), torch.randn(N, 5)
    expected = definitions(rows.numpy(), N, W, 0)
    total = (torch.from_numpy(expected[weighting]) * overlaps(W_dec, penalty)).sum()
    divisor = expected["c" if weighting in ("stable", "bursty") else weighting].sum()
    loss = OrthogonalityLoss(1.0, penalty, weighting=weighting, estimator="exact")
    assert float(loss(W_dec, tracker)) == pytest.approx(float(total / divisor), rel=1e-5)


def test_steady_and_bursty_add_up_and_are_not_scaled_up():
    """With one Σ c_long below both, what is left of a weight keeps its strength."""
    rows = zipf_stream(1, N, K, tokens=60)
    tracker, W_dec = tracked(rows), torch.randn(N, 5)
    c = torch.from_numpy(definitions(rows.numpy(), N, W, 0)["c"])
    whole = float((c * overlaps(W_dec)).sum() / c.sum())
    stable, bursty = (
        float(OrthogonalityLoss(1.0, weighting=name)(W_dec, tracker))
        for name in ("stable", "bursty")
    )
    assert 0 < bursty < stable
    assert stable + bursty == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("weighting", ["excess", "stable", "bursty"])
def test_a_sample_of_the_whole_window_is_its_pairs_by_w_over_c_long(weighting):
    rows = zipf_stream(1, N, K, tokens=60)
    tracker, W_dec = tracked(rows), torch.randn(N, 5)
    expected = definitions(rows.numpy(), N, W, 0)
    c_long = expected["c"]
    last = tracker.rate_matrix().double().numpy()
    factor = np.divide(expected[weighting], c_long, where=c_long > 0, out=0 * c_long)
    total = (torch.from_numpy(last * factor) * overlaps(W_dec)).sum()
    divisor = (last * factor).sum() if weighting == "excess" else last.sum()
    options = {"weighting": weighting, "estimator": "sampled", "sample_tokens": W}
    value = float(OrthogonalityLoss(1.0, **options)(W_dec, tracker))
    assert value == pytest.approx(float(total / divisor), rel=1e-5)
    # Over all windows that is the exact sum: each pair is there in n_ij of N tokens.
    windows = [tracker.weight_sum("excess", of_window=True) for tracker in after_each(rows)]
    assert float(torch.stack(windows).mean()) == pytest.approx(expected["excess"].sum(), rel=1e-5)


def after_each(rows):
    """A tracker whose totals are those of all windows, and whose last window is each of them."""
    for first in range(0, len(rows), W):
        yield tracked(rows.roll(-first - W, 0))


@pytest.mark.parametrize("penalty", ["square", "abs"])
def test_sampling_latents_by_their_rates_is_unbiased(monkeypatch, penalty):
    monkeypatch.setattr("temporal_sae.loss.sums.SAMPLE_ROWS", 8)
    tracker, W_dec = tracked(zipf_stream(1, N, K, tokens=60)), torch.randn(N, 5)
    exact = OrthogonalityLoss(1.0, penalty, weighting="rates", estimator="exact")
    draws = torch.tensor(
        [
            float(
                OrthogonalityLoss(1.0, penalty, weighting="rates", estimator="sampled", seed=s)(
                    W_dec, tracker
                )
            )
            for s in range(400)
        ]
    )
    assert float(draws.std()) > 0
    expected = float(exact(W_dec, tracker))
    assert float(draws.mean()) == pytest.approx(expected, abs=4 * float(draws.std()) / 20)


@pytest.mark.parametrize(
    "options",
    [
        {"weighting": "rates"},
        {"weighting": "rates", "penalty": "abs"},
        {"weighting": "rates", "permuted": True, "floor": 0.5},
        {"weighting": "excess"},
        {"weighting": "stable", "estimator": "sampled", "sample_tokens": 5},
        {"weighting": "bursty", "floor": 1.0, "reduction": "sum"},
    ],
)
def test_gradients_are_those_of_finite_differences_and_of_the_one_pass(options):
    tracker, loss = tracked(zipf_stream(1, 7, 3, tokens=60), n=7), OrthogonalityLoss(**options)
    W_dec = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: loss(w, tracker), W_dec)
    there = torch.randn_like(W_dec).detach()
    into = there.clone()
    value = loss(W_dec, tracker)
    torch.testing.assert_close(loss.add_gradient(W_dec, tracker, into), value.detach())
    torch.testing.assert_close(into - there, torch.autograd.grad(value, W_dec)[0])


@given(seed=st.integers(0, 999), window_size=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_burstiness_of_latents_is_that_of_the_atlas(seed, window_size):
    rows = zipf_stream(seed, N, K)
    totals = tracked(rows, window_size=window_size).totals
    windows = rows[: totals.n_tokens].reshape(-1, window_size * K)
    counts = np.stack([np.bincount(w[w >= 0], minlength=N) for w in windows.numpy()])
    sums = counts.sum(0), (counts**2).sum(0), len(counts)
    np.testing.assert_allclose(totals.fano(), statistics.fano_factor(*sums), rtol=1e-9)
    np.testing.assert_allclose(totals.burstiness(), statistics.overdispersion(*sums), rtol=1e-9)


def test_burstiness_of_a_burst_by_hand():
    totals = tracked([*BURST, *[[0, 3]] * 2, *[[3, -1]] * 6], 5, 4).totals
    # Latent 0: 4, 0, 2, 0; μ 1.5, V 11/3. Latent 4 is never active.
    assert float(totals.fano()[0]) == pytest.approx(11 / 3 / 1.5)
    assert float(totals.burstiness()[0]) == pytest.approx((11 / 3 - 1.5) / 2.25)
    assert totals.burstiness()[4].isnan()
    assert tracked(BURST, 5, 8).totals.fano().isnan().all()  # of one window there is no variance


def test_a_state_of_an_earlier_version_goes_on_without_burstiness():
    rows = zipf_stream(1, N, K, tokens=80)
    whole, state = tracked(rows), tracked(rows[:45]).state_dict()
    for name in ("own_squares", "pair_sum"):
        del state["totals"][name]
    resumed = CoActivationTracker(N, W, totals_from=0)
    resumed.load_state_dict(state)
    resumed.update(rows[45:])
    for weighting in LONG:
        assert torch.equal(resumed.weight_sum(weighting), whole.weight_sum(weighting))
    with pytest.raises(ValueError, match="without squares of latents"):
        resumed.totals.burstiness()
    assert "own_squares" not in resumed.totals.state_dict()
