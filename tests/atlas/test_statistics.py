"""Statistics of pairs against their definitions on the tokens themselves."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from temporal_sae.atlas import statistics
from temporal_sae.atlas.statistics import Counts

BY_HAND = Counts.of(n_ij=30, n_i=40, n_j=60, n_tokens=100)


@pytest.mark.parametrize(
    ("statistic", "value"),
    [
        (statistics.phi, (3000 - 2400) / math.sqrt(40 * 60 * 60 * 40)),
        (statistics.lift, 1.25),
        (statistics.npmi, math.log(1.25) / -math.log(0.3)),
        (statistics.jaccard, 30 / 70),
        (statistics.given_i, 0.75),
        (statistics.given_j, 0.5),
        (statistics.z_score, 10 * 600 / 2400),
    ],
)
def test_by_hand(statistic, value):
    assert statistic(BY_HAND) == pytest.approx(value, rel=1e-12)


firing = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)


@given(firing)
def test_phi_is_the_correlation_of_the_indicators(pairs):
    a, b = np.array(pairs, float).T
    assume(0 < a.sum() < len(a) and 0 < b.sum() < len(b))
    counts = Counts.of((a * b).sum(), a.sum(), b.sum(), len(a))
    assert statistics.phi(counts) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)
    assert -1 - 1e-12 <= statistics.npmi(counts) <= 1 + 1e-12


@given(firing)
def test_they_are_the_same_both_ways_round(pairs):
    a, b = np.array(pairs, float).T
    one = Counts.of((a * b).sum(), a.sum(), b.sum(), len(a))
    other = Counts.of((a * b).sum(), b.sum(), a.sum(), len(a))
    for statistic in (statistics.phi, statistics.npmi, statistics.lift, statistics.jaccard):
        assert np.array_equal(statistic(one), statistic(other), equal_nan=True)
    assert np.array_equal(statistics.given_i(one), statistics.given_j(other), equal_nan=True)


def test_what_has_no_value_is_nan():
    never, always = Counts.of(0, 0, 5, 10), Counts.of(5, 10, 5, 10)
    assert math.isnan(statistics.phi(never))
    assert math.isnan(statistics.lift(never))
    assert math.isnan(statistics.phi(always))
    assert statistics.npmi(Counts.of(0, 3, 5, 10)) == -1
    assert math.isnan(statistics.npmi(Counts.of(10, 10, 10, 10)))
    assert np.isnan(statistics.divided(np.array([1.0, 0.0, -1.0]), np.zeros(3))).all()


def test_counts_of_a_large_text_keep_their_precision():
    """N³ of the naive formula would lose all digits in float32, and n² overflow int64."""
    n = 10**10
    counts = Counts.of(n // 4, n // 2, n // 2, n)
    assert statistics.phi(counts) == pytest.approx(0, abs=1e-12)


@given(st.lists(st.integers(0, 30), min_size=2, max_size=50))
def test_dispersion_is_that_of_the_counts(counts):
    assume(sum(counts))
    n, squares = sum(counts), sum(c * c for c in counts)
    mean, variance = np.mean(counts), np.var(counts, ddof=1)
    fano = statistics.fano_factor(n, squares, len(counts))
    assert fano == pytest.approx(variance / mean, rel=1e-9, abs=1e-9)
    found = statistics.overdispersion(n, squares, len(counts))
    assert found == pytest.approx((variance - mean) / mean**2, rel=1e-9, abs=1e-9)


def test_one_window_has_no_variance():
    assert math.isnan(statistics.fano_factor(3, 9, 1))
