"""Targeted probe perturbation where the answer is known."""

import numpy as np
import pytest

from temporal_sae.errors import InvalidOption
from temporal_sae.eval.tasks.scr import cells_of
from temporal_sae.eval.tasks.snippets import Snippet, Snippets
from temporal_sae.eval.tasks.tpp import (
    TargetedProbePerturbation,
    accuracy_differences,
    perturbation_scores,
)

OPTIONS = TargetedProbePerturbation(n_values=[1, 2], train_rows=150, test_rows=80, n_resamples=100)


def test_scores_by_hand():
    # Three classes, two numbers of latents: as it is, then class by class, number by number.
    clean = [0.9, 0.8, 0.7]
    ablated = [
        *[0.6, 0.8, 0.7],  # one latent of class 0: costs its own probe 0.3
        *[0.5, 0.7, 0.5],  # two: 0.4, and the others 0.1 and 0.2
        *[0.9, 0.7, 0.7],
        *[0.9, 0.6, 0.7],
        *[0.9, 0.8, 0.7],
        *[0.8, 0.8, 0.6],
    ]
    differences = accuracy_differences(np.array(clean + ablated), 3, 2)
    assert differences[1, 0] == pytest.approx([0.4, 0.1, 0.2])
    total, intended, unintended = perturbation_scores(differences)
    assert intended == pytest.approx(np.array([[0.3, 0.1, 0.0], [0.4, 0.2, 0.1]]))
    assert unintended == pytest.approx(np.array([[0.0, 0.0, 0.0], [0.15, 0.0, 0.05]]))
    assert total == pytest.approx(intended - unintended)


def test_ablating_a_class_hurts_it_alone(planted):
    found = OPTIONS.run(planted(package=3.0, kind=0.0))
    scores = found["scores"]
    # Without its axis a class looks like none of them: its own probe answers no to all.
    assert scores["tpp_intended_threshold_1"] > 0.3
    # The other probes lose the axis that told them what they are not.
    assert 0 < scores["tpp_unintended_threshold_1"] < 0.15
    for n in (1, 2):
        total = scores[f"tpp_intended_threshold_{n}"] - scores[f"tpp_unintended_threshold_{n}"]
        assert scores[f"tpp_total_threshold_{n}"] == pytest.approx(total)


def test_an_sae_of_zeros_changes_nothing(planted):
    found = OPTIONS.run(planted(zeros=True))
    assert set(found["scores"].values()) == {0.0}
    assert all(tuple(interval) == (0.0, 0.0) for interval in found["intervals"].values())


def test_shuffled_labels_leave_nothing_to_perturb(planted):
    scores = OPTIONS.run(planted(shuffled=True))["scores"]
    assert all(abs(score) < 0.08 for score in scores.values())


def test_every_score_has_an_interval(planted):
    found = OPTIONS.run(planted())
    assert tuple(found["scores"]) == OPTIONS.metric_names == tuple(found["intervals"])
    for name, score in found["scores"].items():
        low, high = found["intervals"][name]
        assert low <= score <= high
    by_class = [c["tpp_total"][0] for c in found["details"]["classes"].values()]
    assert found["scores"]["tpp_total_threshold_1"] == pytest.approx(np.mean(by_class))
    assert found == OPTIONS.run(planted())


def library(n):
    row = Snippet("text", "a", "code", "a/f.py", 1)
    cells = {(s, cell): (row,) * n for s in ("train", "test") for cell in cells_of(("a", "b"))}
    return Snippets(("a", "b"), cells)


def test_checks():
    task = TargetedProbePerturbation(n_values=[2, 500], train_rows=10, test_rows=5)
    task.check(library(10), 500)
    with pytest.raises(InvalidOption, match=r"n_values=\[2, 500\]: must be at most 499 each"):
        task.check(library(10), 499)
    with pytest.raises(InvalidOption, match=r"train_rows=10: .* takes 10 train rows .* has 9"):
        task.check(library(9), 500)
