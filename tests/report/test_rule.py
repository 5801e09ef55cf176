"""The rule by which a difference is called an improvement: what it finds where nothing differs."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from temporal_sae.report.paired import Run, Section, compare_groups
from temporal_sae.report.rule import (
    ALPHA,
    CLEAR,
    HIGHER,
    IMPROVEMENT,
    LOWER,
    SAME,
    TOO_FEW,
    UNCLEAR,
    WORSE,
    by_rule,
)
from temporal_sae.statistics import holm, power

EIGHT_SEEDS = Path(__file__).with_name("eight_seeds.csv")
PRIMARY = "absorption_full"
N_OTHERS = 64
TABLES = 200
# So many of 200 tables at 5 % are exceeded once in a thousand.
MOST_BY_CHANCE = int(stats.binom.ppf(0.999, TABLES, ALPHA))


def runs_of(scores, names):
    """Runs with these scores, [seeds, metrics]."""
    return [
        Run(Path(str(seed)), seed, {}, {"core": Section({}, dict(zip(names, own, strict=True)))})
        for seed, own in enumerate(scores.tolist())
    ]


def compared(a, b, names, primary=PRIMARY):
    rows = compare_groups(runs_of(a, names), runs_of(b, names)).rows
    return by_rule({"": rows}, primary)


def names_of(n_others=N_OTHERS):
    return [PRIMARY, *(f"tpp_total_threshold_{n}" for n in range(n_others))]


class World:
    """Scores of runs as evaluations give them: few causes, many metrics of different scale.

    Six factors of a seed explain most of all metrics, as a task's scores at several numbers of
    latents move together; a part is the seed's (both arms have it), a part is the run's.
    """

    def __init__(self, rng, n_metrics=N_OTHERS + 1, n_factors=6):
        self.loadings = rng.normal(size=(n_factors, n_metrics))
        self.scale = 10 ** rng.uniform(-3, 0, n_metrics)
        self.rng = rng

    def runs(self, n_seeds, shared):
        factors = self.rng.normal(size=(n_seeds, len(self.loadings)))
        own = self.rng.normal(size=(n_seeds, self.loadings.shape[1]))
        return 0.5 + self.scale * (shared + factors @ self.loadings + 0.7 * own)

    def pair(self, n_seeds):
        shared = self.rng.normal(size=(n_seeds, self.loadings.shape[1]))
        return self.runs(n_seeds, shared), self.runs(n_seeds, shared)


@pytest.mark.parametrize("n_seeds", [3, 5, 8])
def test_where_nothing_differs_at_most_one_table_in_twenty_says_otherwise(n_seeds):
    """200 A/A comparisons: by the primary metric, and by any of 64 correlated others."""
    world = World(np.random.default_rng(n_seeds))
    primary = others = uncorrected = 0
    for _ in range(TABLES):
        rows = compared(*world.pair(n_seeds), names_of())
        primary += any(found.clear for found in rows if found.primary)
        others += any(found.clear for found in rows if not found.primary)
        uncorrected += any(found.row.test.p < ALPHA for found in rows if not found.primary)
    assert primary <= MOST_BY_CHANCE
    assert others <= MOST_BY_CHANCE
    assert uncorrected > TABLES / 2  # what the correction is for


def test_where_nothing_differs_between_trained_runs():
    """A/A with real scores: eight seeds of one config with `eval=tasks`, in four pairs by chance.

    eight_seeds.csv: `launch.py -m seed=1,2,3,4,5,6,7,8 trainer.num_tokens=100000 eval=tasks`,
    all compared scores that are not the same in every run.
    """
    with EIGHT_SEEDS.open() as file:
        names, *rows = csv.reader(file)
    scores, rng = np.array(rows, dtype=float), np.random.default_rng(0)
    primary = others = 0
    for _ in range(TABLES):
        a, b = scores[rng.permutation(8)].reshape(2, 4, len(names))
        found = compared(a, b, names, primary=str(rng.choice(names)))
        primary += any(row.clear for row in found if row.primary)
        others += any(row.clear for row in found if not row.primary)
    assert len(set(names)) == len(names) == N_OTHERS
    assert primary <= MOST_BY_CHANCE
    assert others <= MOST_BY_CHANCE


def test_an_effect_of_one_and_a_fifth_is_found_four_times_in_five_with_eight_seeds():
    world = World(np.random.default_rng(1))
    pairs = [world.pair(8) for _ in range(TABLES)]
    deviation = np.concatenate([a[:, 0] - b[:, 0] for a, b in pairs]).std()
    found = 0
    for a, b in pairs:
        a[:, 0] -= 1.2 * deviation  # less absorption is better
        rows = compared(a, b, names_of())
        found += rows[0].verdict == IMPROVEMENT
    low = stats.binom.ppf(0.01, TABLES, power(1.2, 8))
    assert power(1.2, 8) > 0.8
    assert found >= low


def test_families_by_hand():
    """p of .04, .01 and .03 are others: Holm gives .06, .03, .06; the primary's is its own."""
    rows = compared_with_p([0.04, 0.04, 0.01, 0.03])
    assert [found.primary for found in rows] == [True, False, False, False]
    assert [found.holm for found in rows] == pytest.approx([0.04, 0.06, 0.03, 0.06], rel=1e-3)
    assert [found.bh for found in rows] == pytest.approx([0.04, 0.04, 0.03, 0.04], rel=1e-3)
    assert [found.clear for found in rows] == [True, False, True, False]
    without = compared_with_p([0.04, 0.04, 0.01, 0.03], primary=None)
    assert [found.clear for found in without] == [False, False, True, False]


def compared_with_p(p, primary=PRIMARY):
    """Rows whose paired tests have these p values, at four seeds."""
    t = stats.t.isf(np.array(p) / 2, 3)
    noise = np.array([[-1.0], [-1.0], [1.0], [1.0]])  # deviation √(4/3)
    a = noise + t * math.sqrt(4 / 3) / 2
    return compared(a, np.zeros_like(a), names_of(len(p) - 1), primary)


@given(st.lists(st.floats(1e-6, 0.99), min_size=2, max_size=6), st.integers(2, 4))
def test_several_arms_are_one_table(p, n_arms):
    """Primary tests of all arms are a family, the others of all arms another."""
    one = compared_with_p(p)
    rows = [found.row for found in one]
    together = by_rule({str(arm): rows for arm in range(n_arms)}, PRIMARY)
    assert [found.arm for found in together] == [str(n) for n in range(n_arms) for _ in p]
    expected = holm([p[0]] * n_arms)
    assert [f.holm for f in together if f.primary] == pytest.approx(expected, rel=1e-3)
    others = [f for f in together if not f.primary]
    assert [f.holm for f in others] == pytest.approx(holm(p[1:] * n_arms), rel=1e-3)
    assert all(f.clear == (f.holm < ALPHA) for f in together)


def test_words():
    a = np.array([[1.0, 1.0, 1.0], [1.1, 1.2, 1.1], [0.9, 1.1, 1.0], [1.0, 0.9, 1.1]])
    names = ["ce_loss_score", "mse", "l0"]
    assert [f.verdict for f in compared(a, 0 * a, names)] == [IMPROVEMENT, WORSE, HIGHER]
    assert [f.verdict for f in compared(0 * a, a, names)] == [WORSE, IMPROVEMENT, LOWER]
    assert {f.verdict for f in compared(a[:1], 0 * a[:1], names)} == {TOO_FEW}
    exact = np.array([[0.1], [0.1], [0.1]])
    assert compared(exact, 0 * exact, ["mse"])[0].verdict == SAME
    assert compared(exact, exact, ["mse"])[0].verdict == UNCLEAR
    assert {IMPROVEMENT, WORSE, HIGHER, LOWER} == set(CLEAR)
