"""Spurious correlation removal where the answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption
from temporal_sae.eval.tasks.scr import (
    SpuriousCorrelationRemoval,
    cells_of,
    direction_scores,
    metric_of,
)
from temporal_sae.eval.tasks.snippets import Snippet, Snippets

OPTIONS = SpuriousCorrelationRemoval(
    n_values=[1, 2, 4], train_rows=150, test_rows=80, n_resamples=100
)


def test_scores_by_hand():
    # Unbiased 0.9 and 0.8; before 0.5 and 0.7; after one ablation 0.7 and 0.65; after two 0.9, 0.8.
    accuracies = np.array([0.9, 0.8, 0.5, 0.7, 0.7, 0.65, 0.9, 0.8])
    expected = np.array([[0.5, -0.5], [1.0, 1.0]])
    assert direction_scores(accuracies) == pytest.approx(expected)
    assert metric_of(accuracies) == pytest.approx([0.5, 1.0])  # direction 1 was worse before


def test_the_direction_that_was_worse_counts_and_both_where_they_tie():
    worse_second = np.array([0.9, 0.8, 0.7, 0.6, 0.8, 0.7])
    assert metric_of(worse_second) == pytest.approx([0.5])
    tied = np.array([0.9, 0.7, 0.5, 0.5, 0.9, 0.6])
    assert metric_of(tied) == pytest.approx([(1.0 + 0.5) / 2])


def test_where_there_is_nothing_to_win_the_score_is_zero():
    assert metric_of(np.array([0.5005, 0.9, 0.5, 0.6, 0.9, 0.9])).tolist() == [0]
    assert metric_of(np.array([0.4, 0.9, 0.5, 0.6, 0.9, 0.9])).tolist() == [0]


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8), st.integers(1, 4))
def test_resamples_are_scored_like_one(values, n):
    one = metric_of(np.array(values))
    assert np.array_equal(metric_of(np.tile(values, (n, 1))), np.tile(one, (n, 1)))


def test_removing_the_bias_wins_all_back(planted):
    # The kind is easier than the package, so the biased probe goes by the kind.
    found = OPTIONS.run(planted(package=1.5, kind=3.0))
    for pair in ("a / b", "a / c"):
        details = found["details"]["pairs"][pair]
        assert details["accuracy_before"][0] < details["accuracy_unbiased"][0] - 0.2
        assert details["accuracy_before"][1] > 0.9
    # Docstring and code have an axis each, both with two latents.
    scores = found["scores"]
    assert scores["scr_metric_threshold_4"] == pytest.approx(1, abs=0.15)
    assert scores["scr_metric_threshold_1"] < 0.3


def test_an_sae_of_zeros_removes_nothing(planted):
    found = OPTIONS.run(planted(package=1.5, kind=3.0, zeros=True))
    assert set(found["scores"].values()) == {0.0}
    assert all(tuple(interval) == (0.0, 0.0) for interval in found["intervals"].values())


def test_every_score_has_an_interval(planted):
    found = OPTIONS.run(planted(package=1.5, kind=3.0))
    assert tuple(found["scores"]) == OPTIONS.metric_names == tuple(found["intervals"])
    for name, score in found["scores"].items():
        low, high = found["intervals"][name]
        assert low <= score <= high
    assert list(found["details"]["pairs"]) == ["a / b", "a / c", "b / c"]
    assert found == OPTIONS.run(planted(package=1.5, kind=3.0))


def library(n):
    row = Snippet("text", "a", "code", "a/f.py", 1)
    cells = {(s, cell): (row,) * n for s in ("train", "test") for cell in cells_of(("a", "b"))}
    return Snippets(("a", "b"), cells)


def test_checks():
    task = SpuriousCorrelationRemoval(n_values=[2, 500], train_rows=10, test_rows=5)
    task.check(library(20), 500)
    with pytest.raises(InvalidOption, match=r"n_values=\[2, 500\]: must be at most 499 each"):
        task.check(library(20), 499)
    with pytest.raises(InvalidOption, match=r"train_rows=10: .* takes 20 train rows .* has 19"):
        task.check(library(19), 500)
    with pytest.raises(InvalidOption, match="n_values"):
        SpuriousCorrelationRemoval(n_values=[0])
