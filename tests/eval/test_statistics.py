"""Intervals: what theory says about them, and what may be said because of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.eval import statistics
from temporal_sae.eval.statistics import (
    HIGHER,
    IMPROVEMENT,
    LOWER,
    SAME,
    TOO_FEW,
    UNCLEAR,
    WORSE,
    bootstrap_interval,
    paired_difference,
    resample,
    sum_interval,
)

numbers = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 3))
SAYS_SOMETHING = (IMPROVEMENT, WORSE, HIGHER, LOWER)


def mean_interval_of(values, **options):
    values = np.asarray(values, dtype=float)
    return bootstrap_interval(lambda i: values[i].mean(1), len(values), 0, **options)


def test_the_interval_of_a_mean_is_the_one_of_the_textbook():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    low, high = mean_interval_of(values, n_resamples=4000)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    narrow = mean_interval_of(values, n_resamples=4000, level=0.5)
    assert narrow[1] - narrow[0] == pytest.approx(0.6745 / 1.96 * (high - low), rel=0.1)


def test_a_statistic_that_is_no_mean():
    values = np.arange(101.0)
    low, high = bootstrap_interval(lambda i: np.median(values[i], axis=1), 101, 0)
    assert 30 < low < 45
    assert 55 < high < 70


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=40))
def test_the_interval_holds_the_mean_and_lies_within_the_values(values):
    low, high = mean_interval_of(values, n_resamples=400)
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= low <= np.mean(values) + slack
    assert np.mean(values) - slack <= high <= max(values) + slack
    assert sum_interval(np.array(values) / len(values), 0, n_resamples=400) == pytest.approx(
        (low, high), abs=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(numbers, min_size=3, max_size=20).filter(lambda v: np.ptp(v) > 0.1))
def test_more_of_the_same_makes_it_narrower(values):
    low, high = mean_interval_of(values)
    narrow_low, narrow_high = mean_interval_of(values * 16)
    assert narrow_high - narrow_low < high - low


def test_the_seed_fixes_it_and_the_pieces_do_not_matter(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = mean_interval_of(values)
    assert whole == mean_interval_of(values)
    assert whole != bootstrap_interval(lambda i: values[i].mean(1), 50, seed=1)
    sizes = []

    def statistic(indices):
        sizes.append(len(indices))
        return values[indices].mean(1)

    monkeypatch.setattr(statistics, "AT_ONCE", 50 * 64)
    assert bootstrap_interval(statistic, 50, 0) == whole
    assert max(sizes) == 64
    assert sum(sizes) == 1000


def test_groups_keep_their_places_and_their_spread_does_not_count():
    groups = np.array([3, 1, 3, 3, 1, 7])
    indices = resample(groups, 500, np.random.default_rng(0))
    assert indices.shape == (500, 6)
    assert (groups[indices] == groups).all()
    assert (indices[:, 5] == 5).all()
    assert {tuple(sorted(set(column))) for column in indices[:, :5].T} == {(0, 2, 3), (1, 4)}
    between = groups.astype(float)
    assert mean_interval_of(between, groups=groups) == (between.mean(), between.mean())
    low, high = mean_interval_of(between)
    assert low < high


def test_one_unit_and_what_is_never_defined_have_no_interval():
    assert all(math.isnan(v) for v in mean_interval_of([1.0]))
    assert all(math.isnan(v) for v in mean_interval_of([]))
    undefined = bootstrap_interval(lambda i: np.full(len(i), np.nan), 5, 0)
    assert all(math.isnan(v) for v in undefined)
    values = np.array([0.0, 1.0, 2.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        sometimes = bootstrap_interval(lambda i: values[i].sum(1) / values[i].sum(1), 3, 0)
    assert sometimes == (1.0, 1.0)


def test_groups_must_be_of_all_units():
    with pytest.raises(ValueError, match="groups"):
        mean_interval_of([1.0, 2.0], groups=[0])


def test_three_pairs_by_hand():
    found = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], seed=0)
    T = 4.302652730  # Student, 2 degrees of freedom, 0.975; the differences have s = 1
    assert found.mean == 2.0
    assert (found.low, found.high) == pytest.approx((2 - T / 3**0.5, 2 + T / 3**0.5))
    assert found.verdict == UNCLEAR
    assert not found.excludes_zero


@pytest.mark.parametrize(
    ("higher_is_better", "verdicts"),
    [(True, (IMPROVEMENT, WORSE)), (False, (WORSE, IMPROVEMENT)), (None, (HIGHER, LOWER))],
)
def test_verdicts(higher_is_better, verdicts):
    more, less = [0.52, 0.61, 0.70], [0.32, 0.40, 0.51]
    up = paired_difference(more, less, 0, higher_is_better)
    down = paired_difference(less, more, 0, higher_is_better)
    assert (up.verdict, down.verdict) == verdicts
    assert up.excludes_zero


def test_what_no_interval_can_be_had_for():
    assert paired_difference([], [], 0).verdict == TOO_FEW
    assert math.isnan(paired_difference([], [], 0).mean)
    one = paired_difference([1.0], [0.0], 0)
    assert (one.mean, one.verdict) == (1.0, TOO_FEW)
    assert math.isnan(one.low)
    lost = paired_difference([1.0, math.nan, math.inf], [0.0, 1.0, 1.0], 0)
    assert (lost.differences, lost.verdict) == ((1.0,), TOO_FEW)
    # Always the same difference, but for rounding: a t interval would be of no width.
    same = paired_difference([0.5, 0.6, 0.7], [0.4, 0.5, 0.6], 0)
    assert (same.verdict, same.excludes_zero) == (SAME, False)
    equal = paired_difference([0.1, 0.2], [0.1, 0.2], 0)
    assert (equal.low, equal.high, equal.verdict) == (0.0, 0.0, UNCLEAR)
    with pytest.raises(ValueError, match="pairs"):
        paired_difference([1.0], [], 0)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(numbers, numbers), max_size=14),
    st.sampled_from([True, False, None]),
)
def test_nothing_is_called_better_when_the_interval_covers_zero(pairs, higher_is_better):
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    found = paired_difference(a, b, 0, higher_is_better, n_resamples=200)
    assert (found.verdict in SAYS_SOMETHING) == found.excludes_zero
    if found.verdict in SAYS_SOMETHING:
        assert not found.low <= 0 <= found.high
        assert found.low <= found.mean <= found.high
    turned = paired_difference(b, a, 0, higher_is_better, n_resamples=200)
    assert turned.mean == pytest.approx(-found.mean, nan_ok=True)
    assert turned.excludes_zero == found.excludes_zero


def coverage(n, draw, n_runs=1500):
    rng = np.random.default_rng(7)
    covered = 0
    for run in range(n_runs):
        values = draw(rng, n)
        found = paired_difference(values, np.zeros(n), seed=run, n_resamples=400)
        covered += found.low <= 0 <= found.high
    return covered / n_runs


@pytest.mark.parametrize("n", [2, 3, 5, 12, 25])
def test_coverage_where_nothing_differs(n):
    """95 % of the intervals hold the truth, give or take three standard errors of 0.0056."""
    assert coverage(n, lambda rng, n: rng.normal(0, 1, n)) == pytest.approx(0.95, abs=0.017)


@pytest.mark.parametrize("n", [12, 25])
def test_coverage_of_skewed_differences(n):
    """Student's interval would hold it 91 % of the time at n = 12."""
    assert coverage(n, lambda rng, n: rng.exponential(1, n) - 1) > 0.93


def test_why_percentiles_are_not_used_for_three_pairs():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(500, 3))
    covered = [low <= 0 <= high for low, high in map(mean_interval_of, draws)]
    assert np.mean(covered) == pytest.approx(0.75, abs=0.06)
