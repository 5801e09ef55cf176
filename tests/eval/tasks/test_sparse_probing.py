"""Sparse probing where the answer is known."""

import pytest

from temporal_sae.errors import InvalidOption
from temporal_sae.eval.tasks.snippets import Snippet, Snippets
from temporal_sae.eval.tasks.sparse_probing import SparseProbing, classes_of

OPTIONS = SparseProbing(k_values=[1, 2, 24], train_rows=40, test_rows=60, n_resamples=100)


def scores_of(activations, question, options=OPTIONS):
    scores = options.run(activations)["scores"]
    prefix = f"sparse_probing_{question}_"
    return {k.removeprefix(prefix): v for k, v in scores.items() if k.startswith(prefix)}


@pytest.mark.parametrize("question", ["package", "kind"])
def test_an_sae_of_zeros_knows_nothing(planted, question):
    scores = scores_of(planted(zeros=True), question)
    assert scores["sae_top_1"] == scores["sae_top_2"] == scores["sae_top_24"] == 0.5
    assert scores["llm_all"] > 0.8


@pytest.mark.parametrize("question", ["package", "kind"])
def test_an_sae_that_loses_nothing_knows_what_activations_know(planted, question):
    scores = scores_of(planted(), question)
    assert scores["sae_top_24"] == pytest.approx(scores["llm_all"], abs=0.03)
    assert scores["sae_top_1"] == pytest.approx(scores["llm_top_1"], abs=0.05)
    # One axis per class at a distance of 2: the best threshold is right with probability 0.84.
    assert scores["llm_top_1"] == pytest.approx(0.84, abs=0.05)


def test_only_what_differs_is_known(planted):
    assert scores_of(planted(package=0.0), "package")["llm_all"] == pytest.approx(0.5, abs=0.08)
    assert scores_of(planted(package=0.0), "kind")["llm_all"] > 0.8


@pytest.mark.parametrize("question", ["package", "kind"])
def test_shuffled_labels_are_chance(planted, question):
    for value in scores_of(planted(shuffled=True), question).values():
        assert value == pytest.approx(0.5, abs=0.08)


def test_every_score_has_an_interval_around_it(planted):
    found = OPTIONS.run(planted())
    assert tuple(found["scores"]) == OPTIONS.metric_names == tuple(found["intervals"])
    for name, score in found["scores"].items():
        low, high = found["intervals"][name]
        assert low < score < high
        assert high - low < 0.2
    per_class = found["details"]["kind"]["accuracy_per_class"]["sae_top_1"]
    assert list(per_class) == ["code", "docstring", "comment"]
    mean = sum(per_class.values()) / 3
    assert found["scores"]["sparse_probing_kind_sae_top_1"] == pytest.approx(mean)


def test_the_seed_decides(planted):
    assert OPTIONS.run(planted()) == OPTIONS.run(planted())
    other = SparseProbing(k_values=[1, 2, 24], train_rows=40, test_rows=60, n_resamples=100, seed=1)
    assert other.run(planted())["scores"] != OPTIONS.run(planted())["scores"]


def test_classes_are_balanced_over_the_other_label():
    cells = [(p, k) for p in ("a", "b") for k in ("code", "comment")]
    assert classes_of("package", cells) == {
        "a": [("a", "code"), ("a", "comment")],
        "b": [("b", "code"), ("b", "comment")],
    }
    assert classes_of("kind", cells)["comment"] == [("a", "comment"), ("b", "comment")]


def library(n):
    row = Snippet("text", "a", "code", "a/f.py", 1)
    cells = {
        (side, (p, k)): (row,) * n
        for side in ("train", "test")
        for p in ("a", "b")
        for k in ("code", "docstring", "comment")
    }
    return Snippets(("a", "b"), cells)


def test_checks():
    OPTIONS.check(library(60), 24)
    with pytest.raises(InvalidOption, match=r"k_values=\[1, 2, 24\]: must be at most 23 each"):
        OPTIONS.check(library(60), 23)
    with pytest.raises(InvalidOption, match=r"test_rows=60: .* takes 60 test rows .* has 59"):
        OPTIONS.check(library(59), 24)
    for values in ([], [0], [1, 1], "3", [1.5], 5):
        with pytest.raises(InvalidOption, match="k_values"):
            SparseProbing(k_values=values)
