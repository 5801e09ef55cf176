"""Paired tests, adjusted p values, power and equivalence: textbook values and what must hold."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from temporal_sae.statistics import (
    benjamini_hochberg,
    detectable_difference,
    equivalence,
    holm,
    paired_test,
    power,
)

numbers = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 3))
pairs = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=20)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_differences_of_one_two_and_three():
    found = paired_test([2, 4, 6], [1, 2, 3])
    assert found.differences == (1, 2, 3)
    assert (found.n, found.mean, found.deviation, found.d_z) == (3, 2, 1, 2)
    half = 4.302653 / math.sqrt(3)  # Student's t for 2 degrees of freedom
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert found.p == pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(2 + 12), abs=1e-9)


@given(pairs)
def test_it_is_scipys_test(both):
    a, b = zip(*both, strict=True)
    assume(np.ptp(np.subtract(a, b)) > 1e-2)
    found, expected = paired_test(a, b), stats.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_where_there_is_nothing_to_test():
    one = paired_test([2], [1])
    assert (one.n, one.mean) == (1, 1)
    assert all(map(math.isnan, (one.deviation, one.low, one.high, one.p, one.d_z)))
    same = paired_test([0.1, 0.7], [0.1, 0.7])
    assert (same.low, same.high, same.p) == (0, 0, 1)
    shifted = paired_test([0.1 + 0.2, 0.4 + 0.2], [0.1, 0.4])  # rounding is no spread
    assert shifted.deviation == 0
    assert math.isnan(shifted.p)
    assert math.isnan(shifted.low)
    assert paired_test([1, math.nan, 4], [0, 1, 1]).differences == (1, 3)
    with pytest.raises(ValueError, match="3 and 2 values"):
        paired_test([1, 2, 3], [1, 2])


def test_adjusted_values_by_hand():
    p = [0.04, 0.01, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert benjamini_hochberg(p) == pytest.approx([0.04, 0.02, 0.04, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


@given(p_values)
def test_adjusted_values_are_in_order_and_between_one_test_and_bonferroni(p):
    found, shares = holm(p), benjamini_hochberg(p)
    bonferroni = np.minimum(np.array(p) * len(p), 1)
    for adjusted in (found, shares):
        assert np.all(np.array(adjusted) >= np.array(p) - 1e-12)
        assert np.all(np.array(adjusted) <= bonferroni + 1e-12)
        assert np.all(np.diff(np.array(adjusted)[np.argsort(p, kind="stable")]) >= 0)
    assert np.all(np.array(shares) <= np.array(found) + 1e-12)
    assert shares == pytest.approx(list(stats.false_discovery_control(p)))


def test_a_test_that_could_not_be_made_does_not_count():
    for adjust in (holm, benjamini_hochberg):
        found = adjust([math.nan, 0.02, math.nan, 0.5])
        assert found[1] == pytest.approx(0.04)
        assert math.isnan(found[0])
        assert math.isnan(found[2])


def test_power_at_eight_pairs_and_an_effect_of_one_and_a_fifth():
    assert power(1.2, 8) == pytest.approx(stats.nct.sf(2.364624, 7, 1.2 * 8**0.5), abs=1e-5)
    assert power(1.2, 8) > 0.8
    assert power(0, 8) == pytest.approx(0.05)
    assert power(-1.2, 8) == power(1.2, 8)
    assert power(30, 8) == pytest.approx(1)


def test_power_is_the_share_of_simulated_tests_that_find_the_effect():
    rng = np.random.default_rng(0)
    p = stats.ttest_1samp(rng.normal(0.9, 1, (20_000, 5)), 0, axis=1).pvalue
    assert power(0.9, 5) == pytest.approx((p < 0.05).mean(), abs=0.012)


@given(st.integers(2, 40), st.floats(0.01, 10))
def test_the_detectable_difference_is_found_four_times_in_five(n, deviation):
    found = detectable_difference(deviation, n)
    assert power(found / deviation, n) == pytest.approx(0.8, abs=1e-4)
    assert detectable_difference(2 * deviation, n) == pytest.approx(2 * found)


def test_nothing_is_known_of_what_one_pair_can_find():
    assert math.isnan(detectable_difference(1.0, 1))
    assert math.isnan(detectable_difference(0.0, 5))
    assert math.isnan(detectable_difference(math.nan, 5))


@given(pairs, st.floats(0.1, 500))
def test_equivalence_is_the_ninety_percent_interval_within_the_margin(both, margin):
    a, b = zip(*both, strict=True)
    assume(np.ptp(np.subtract(a, b)) > 1e-2)
    found = equivalence(paired_test(a, b), margin)
    at_90 = paired_test(a, b, level=0.9)
    assume(min(abs(at_90.low + margin), abs(at_90.high - margin)) > 1e-6)
    assert (found.p_not_lower < 0.05) == (at_90.low > -margin)
    assert (found.p_not_higher < 0.05) == (at_90.high < margin)
    assert (found.p < 0.05) == (-margin < at_90.low and at_90.high < margin)


def test_equivalence_needs_a_margin_and_a_deviation():
    test = paired_test([1, 2, 4], [1, 1, 1])
    for margin in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be a positive number"):
            equivalence(test, margin)
    assert math.isnan(equivalence(paired_test([2], [1]), 1).p)
