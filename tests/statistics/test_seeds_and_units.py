"""Intervals for other seeds and other texts: coverage where the truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from temporal_sae.statistics import interval_of_seeds_and_units


def drawn_anew(values, rng, n_resamples=400):
    """Means of resampled texts, [seeds, resamples]; values [seeds, texts]."""
    texts = rng.integers(0, values.shape[1], (n_resamples, values.shape[1]))
    return values[:, texts].mean(2)


def crossed(rng, seeds, texts, of_seed, of_text, of_both):
    values = rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_text, (1, texts))
    return values + rng.normal(0, of_both, (seeds, texts))


@pytest.mark.parametrize("scales", [(0.1, 1.0, 1.0), (0.3, 1.0, 0.5), (1.0, 0.5, 0.5)])
def test_it_holds_the_truth_as_often_as_it_says(scales):
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        values = crossed(rng, 5, 60, *scales)
        found = interval_of_seeds_and_units(values.mean(1), drawn_anew(values, rng), 60)
        held += found.low < 0 < found.high
    assert 0.92 <= held / 400 <= 0.99


def test_seeds_alone_miss_the_part_of_the_texts():
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(200):
        values = crossed(rng, 5, 60, 0.1, 1.0, 0.3)
        found = interval_of_seeds_and_units(values.mean(1), drawn_anew(values, rng), 60)
        held += abs(found.mean) < 2.776 * found.error_of_seeds  # Student's t, 4 degrees of freedom
    assert held / 200 < 0.85


def test_the_parts_add_up_as_in_the_design():
    rng = np.random.default_rng(5)
    variances, errors = [], []
    for _ in range(300):
        values = crossed(rng, 6, 40, 0.2, 1.0, 1.0)
        found = interval_of_seeds_and_units(values.mean(1), drawn_anew(values, rng), 40)
        variances.append(found.mean**2)
        errors.append(((found.high - found.low) / 2) ** 2)
    truth = 0.04 / 6 + 1 / 40 + 1 / 240
    assert np.mean(variances) == pytest.approx(truth, rel=0.25)
    assert np.mean(errors) > 1.96**2 * 0.9 * truth


def test_variances_by_hand():
    """Texts that move all seeds by ± 1, so V_s = 1/3 and V_u = 4/3 add up; 2 and 3 of freedom."""
    shift = np.array([1.0, -1.0, 1.0, -1.0])
    found = interval_of_seeds_and_units([1, 2, 3], np.array([[1], [2], [3]]) + shift, 4)
    assert found.error_of_seeds**2 == pytest.approx(1 / 3)
    assert found.error_of_units**2 == pytest.approx(4 / 3)
    assert found.freedom == pytest.approx((5 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (4 / 3) ** 2 / 3))
    half = stats.t.ppf(0.975, found.freedom) * math.sqrt(5 / 3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))


def test_what_seeds_and_texts_share_counts_once():
    """One seed of two moves by ± 2: V_s = 9, V_u = V_su = 4/3, so 9 is left."""
    moved = np.array([[3.0, -1.0, 3.0, -1.0], [7.0] * 4])
    found = interval_of_seeds_and_units([1, 7], moved, 4)
    assert (found.error_of_seeds, found.error_of_units**2) == (3, pytest.approx(4 / 3))
    half = stats.t.ppf(0.975, found.freedom) * 3
    assert found.high - found.mean == pytest.approx(half)


def test_texts_that_do_not_matter_leave_the_interval_of_the_seeds():
    differences = np.array([1.0, 2.0, 3.0])
    found = interval_of_seeds_and_units(differences, np.repeat(differences[:, None], 200, 1), 50)
    half = 4.302653 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert found.error_of_units == 0
    assert found.freedom == pytest.approx(2)


def test_one_seed_or_one_text_has_no_interval():
    assert math.isnan(interval_of_seeds_and_units([1.0], np.ones((1, 200)), 50).low)
    assert math.isnan(interval_of_seeds_and_units([1.0, 2.0], np.ones((2, 200)), 1).low)
    with pytest.raises(ValueError, match=r"must have \(2, resamples\)"):
        interval_of_seeds_and_units([1.0, 2.0], np.ones((3, 200)), 50)
