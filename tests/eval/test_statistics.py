"""Intervals: what theory says about them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.eval import statistics
from temporal_sae.eval.statistics import (
    bootstrap_interval,
    resample,
    sum_interval,
)

numbers = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 3))


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


def test_why_percentiles_are_not_used_for_three_pairs():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(500, 3))
    covered = [low <= 0 <= high for low, high in map(mean_interval_of, draws)]
    assert np.mean(covered) == pytest.approx(0.75, abs=0.06)
