"""Arms at a matched cost, and what is said of their differences."""

import math

import pytest

from temporal_sae.study.analysis import at_budget, compare
from tests.study.designs import COST, FIXED, FLOOR, MADE_UP, PAIRS, SCORE, run

SEEDS = (1, 2, 3)


def paths(arm, points, shift=0.0):
    """Runs of every seed; a point is (weight, cost, score)."""
    return [
        run(arm, weight, seed, cost, score + seed / 1000 + shift * seed)
        for seed in SEEDS
        for weight, cost, score in points
    ]


PLAIN_RUNS = [run("no penalty", None, seed, 0.9, 0.5) for seed in SEEDS]  # so the target is 0.8


def test_between_two_weights_an_arm_counts_where_it_costs_the_budget():
    rows = PLAIN_RUNS + paths("pairs", [(1, 0.85, 0.6), (10, 0.75, 0.7)])
    found = at_budget(MADE_UP, rows, "here", PAIRS)
    assert found.reached == 3
    assert found.values[COST] == pytest.approx([0.8] * 3)
    assert found.values[SCORE] == pytest.approx([0.651, 0.652, 0.653])


@pytest.mark.parametrize(
    "points, expected",
    [([(1, 0.95, 0.6), (10, 0.85, 0.7)], 0.7), ([(1, 0.7, 0.6), (10, 0.6, 0.7)], 0.6)],
    ids=["costs too little: the strongest", "costs too much: the weakest"],
)
def test_an_arm_that_misses_the_budget_counts_by_its_nearest_run(points, expected):
    found = at_budget(MADE_UP, PLAIN_RUNS + paths("pairs", points), "here", PAIRS)
    assert found.reached == 0
    assert found.values[SCORE] == pytest.approx([expected + seed / 1000 for seed in SEEDS])


def test_an_arm_without_a_weight_counts_as_it_is():
    rows = PLAIN_RUNS + [run("matryoshka", None, seed, 0.88, 0.61) for seed in SEEDS]
    found = at_budget(MADE_UP, rows, "here", FIXED)
    assert found.values[SCORE] == [0.61] * 3


def test_runs_of_the_tuning_and_of_other_settings_do_not_count():
    rows = PLAIN_RUNS + paths("pairs", [(1, 0.85, 0.6), (10, 0.75, 0.7)])
    others = [
        run("pairs", 5, 1, 0.8, 99.0, stage="tuning"),
        run("pairs", 5, 1, 0.8, 99.0, setting="there"),
    ]
    assert at_budget(MADE_UP, rows + others, "here", PAIRS) == at_budget(
        MADE_UP, rows, "here", PAIRS
    )


def test_a_contrast_is_paired_over_seeds_and_has_a_direction():
    both = PLAIN_RUNS + paths("pairs", [(1, 0.85, 0.6), (10, 0.75, 0.6)])
    (found,) = compare(
        MADE_UP, both + paths("pairs + 1", [(1, 0.85, 0.7), (10, 0.75, 0.7)]), "here"
    )
    assert found.test.mean == pytest.approx(0.1)
    assert found.test.n == 3
    assert (found.arm, found.control) == pytest.approx((0.702, 0.602))
    swapped = both + paths("pairs + 1", [(1, 0.85, 0.5), (10, 0.75, 0.5)], shift=0.001)
    (worse,) = compare(MADE_UP, swapped, "here")
    assert worse.test.mean == pytest.approx(-0.098)
    assert worse.verdict == "worse"
    (clear,) = compare(
        MADE_UP, both + paths("pairs + 1", [(1, 0.85, 0.7), (10, 0.75, 0.7)], shift=0.001), "here"
    )
    assert clear.verdict == "better"


def test_without_a_value_nothing_is_claimed():
    rows = PLAIN_RUNS + paths("pairs", [(1, 0.85, 0.6), (10, 0.75, 0.7)])
    rows += paths("pairs + 1", [(1, 0.85, math.nan), (10, 0.75, 0.7)])
    (found,) = compare(MADE_UP, rows, "here")
    assert found.verdict == "no difference shown"
    assert at_budget(MADE_UP, rows, "here", FLOOR).reached == 3
