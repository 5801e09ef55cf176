"""A metric at a matched value of another: between points, once over, never beyond."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.statistics import common_range, value_at


def test_between_two_points():
    assert value_at([0.90, 0.88, 0.84], [0.4, 0.1, 0.0], 0.87) == pytest.approx(0.075)
    assert value_at([0.90, 0.88, 0.84], [0.4, 0.1, 0.0], 0.88) == 0.1
    assert value_at([0.90, 0.88, 0.84], [0.4, 0.1, 0.0], 0.90) == 0.4


def test_of_two_passages_the_one_of_the_larger_weight_counts():
    rises_and_falls = [0.86, 0.90, 0.84]
    assert value_at(rises_and_falls, [0.4, 0.2, 0.0], 0.87) == pytest.approx(0.1)
    assert value_at([0.86, 0.9, 0.9, 0.84], [1, 2, 3, 4], 0.9) == 3


@pytest.mark.parametrize("target", [0.83, 0.91])
def test_nothing_is_extrapolated(target):
    with pytest.raises(ValueError, match=r"must lie on the path, which runs from 0.84 to 0.9"):
        value_at([0.90, 0.84], [0, 1], target)


def test_what_is_no_path():
    with pytest.raises(ValueError, match="2 and 1 values"):
        value_at([0.9, 0.8], [1], 0.85)
    with pytest.raises(ValueError, match="0 and 0 values"):
        value_at([], [], 0.85)
    with pytest.raises(ValueError, match="finite"):
        value_at([0.9, float("nan")], [1, 2], 0.9)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(0, 1), st.floats(-3, 3))
def test_a_metric_that_is_a_line_of_the_matched_one_is_that_line(path, share, slope):
    target = min(path) + share * (max(path) - min(path))
    target = min(max(target, min(path)), max(path))
    found = value_at(path, [slope * x + 1 for x in path], target)
    assert found == pytest.approx(slope * target + 1, abs=1e-6)


def test_the_range_that_all_paths_reach():
    assert common_range([[0.9, 0.8], [0.95, 0.85, 0.86]]) == (0.85, 0.9)
    assert common_range([[0.9, 0.8], [0.7, 0.6]]) is None
    found = common_range([np.array([1.0, 2.0])])
    assert found == (1, 2)
