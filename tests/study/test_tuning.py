"""The choice of a weight on seeds of its own."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.errors import RunError
from temporal_sae.study.tuning import choose, last_within
from tests.study.designs import MADE_UP, run


@pytest.mark.parametrize(
    "costs, expected",
    [
        ([0.9, 0.9, 0.9], 100.0),  # never below: the largest
        ([0.7, 0.6, 0.5], 1.0),  # always below: the smallest
        ([0.9, 0.9, 0.7], math.sqrt(10 * 100)),  # half way from .9 to .7
        ([0.7, 0.9, 0.7], math.sqrt(10 * 100)),  # rises before it falls
        ([0.8, 0.7, 0.6], 1.0),  # just reached
    ],
)
def test_the_last_weight_that_keeps_to_the_budget(costs, expected):
    assert last_within([1.0, 10.0, 100.0], costs, 0.8) == pytest.approx(expected)


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6), st.floats(0.0, 1.0))
def test_it_is_within_the_grid_and_the_rest_of_the_grid_costs_more(costs, target):
    grid = [3.0**n for n in range(len(costs))]
    best = last_within(grid, costs, target)
    assert grid[0] * (1 - 1e-9) <= best <= grid[-1] * (1 + 1e-9)
    above = [cost for weight, cost in zip(grid, costs, strict=True) if weight > best * (1 + 1e-9)]
    assert all(cost < target for cost in above)


def test_only_the_tuning_seeds_decide_and_each_setting_by_itself():
    def tuned(setting, *, pairs):
        where = {"stage": "tuning", "setting": setting}
        rows = [run("no penalty", None, 9, 0.9, 0.5, **where)]
        rows += [run("pairs", w, 9, c, 0.5, **where) for w, c in zip((1, 10), pairs, strict=True)]
        return rows + [run("pairs + 1", w, 9, 0.9, 0.5, **where) for w in (1, 10)]

    rows = [*tuned("here", pairs=(0.9, 0.7)), *tuned("there", pairs=(0.7, 0.6))]
    noise = [run("pairs", 10, 1, 0.99, 0.5), run("no penalty", None, 1, 0.1, 0.5)]
    chosen = choose(MADE_UP, [*rows, *noise])
    half = math.sqrt(10)
    assert chosen["here", "pairs"] == pytest.approx([half / 4, half, 2 * half], rel=1e-2)
    assert chosen["there", "pairs"] == [0.25, 1.0, 2.0]
    assert chosen["here", "pairs + 1"] == [2.5, 10.0, 20.0]
    assert len(chosen) == 4  # an arm without a grid has nothing to choose


def test_weights_are_those_of_the_grid_in_the_digits_of_a_table():
    """As a run is told them, a third is 0.333333."""
    design = replace(MADE_UP, arms=(replace(MADE_UP.arms[0], grid=(1 / 3, 1.0)),))
    where = [{"stage": "tuning", "setting": setting.name} for setting in design.settings]
    rows = [run("no penalty", None, 9, 0.9, 0.5, **here) for here in where]
    rows += [run("pairs", w, 9, 0.9, 0.5, **here) for w in (0.333333, 1) for here in where]
    assert set(map(tuple, choose(design, rows).values())) == {(0.25, 1.0, 2.0)}
    told = r"^made_up: there is no run of pairs at weight 0\.333333 in here$"
    with pytest.raises(RunError, match=told):
        choose(design, [row for row in rows if row.weight != 0.333333])
