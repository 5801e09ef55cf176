"""Sparse probing: what a probe on a few latents tells about a text, beside raw activations.

As SAEBench's sparse probing. For each class, a logistic regression tells its texts from as many of
the others, given the mean over tokens of the k latents (or of the k dimensions of the activations)
whose means in both classes differ most in training. The score is the accuracy on test texts,
averaged over classes. The probe on whole activations, which SAEBench trains with AdamW, is a
logistic regression here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.errors import keep_int
from temporal_sae.eval.statistics import Interval
from temporal_sae.eval.tasks.activations import CellActivations
from temporal_sae.eval.tasks.options import check_counts
from temporal_sae.eval.tasks.probes import (
    Rows,
    logistic_regression,
    most_different,
    one_against_rest,
)
from temporal_sae.eval.tasks.python_sources import KINDS
from temporal_sae.eval.tasks.snippets import Cell, Snippets
from temporal_sae.eval.tasks.verdicts import Verdicts, score_intervals
from temporal_sae.metrics import declare, of_tasks
from temporal_sae.registry import component

QUESTIONS = ("package", "kind")


class Split(NamedTuple):
    """Training and test rows of a class's probe, in the two tables."""

    train: Rows
    test: Rows


class View(NamedTuple):
    """Inputs of a probe: the k most different latents (`sae`) or dimensions (`llm`), or all."""

    name: str
    k: int | None


declare(
    of_tasks(
        name="sparse_probing_package_sae_top_1",
        better="higher",
        label="package of a snippet, by a probe on 1 latent (accuracy)",
    ),
    of_tasks(name="sparse_probing_package_sae_top_5", better="higher", label="… on 5 latents"),
    of_tasks(
        name="sparse_probing_package_llm_top_5",
        compared=False,
        label="… on 5 dimensions of the activations",
    ),
    of_tasks(
        name="sparse_probing_package_llm_all",
        compared=False,
        label="… on all dimensions of the activations",
    ),
    of_tasks(
        name="sparse_probing_kind_sae_top_1",
        better="higher",
        label="code, docstring or comment, by a probe on 1 latent",
    ),
    of_tasks(name="sparse_probing_kind_sae_top_5", better="higher", label="… on 5 latents"),
    of_tasks(
        name="sparse_probing_kind_llm_all",
        compared=False,
        label="… on all dimensions of the activations",
    ),
    of_tasks(name="sparse_probing_*", better="higher"),
    of_tasks(name="sparse_probing_*_llm_*", compared=False),
)


@component("eval.sparse_probing")
@dataclass(frozen=True)
class SparseProbing:
    """Two questions: which package a snippet comes from, and what kind of snippet it is.

    Attributes:
        k_values: numbers of latents that a probe sees.
        train_rows: training snippets of each package and kind.
        test_rows: test snippets of each package and kind.
        n_resamples: resamples of the test rows behind an interval.
        seed: which texts stand for the other classes; resampling.

    Raises:
        InvalidOption: an option is out of range.
    """

    k_values: Sequence[int] = field(default=(1, 2, 5, 10, 20, 50))
    train_rows: int = 60
    test_rows: int = 40
    n_resamples: int = 1000
    seed: int = 0

    name: ClassVar[str] = "sparse_probing"
    headline: ClassVar[str] = "sparse_probing_package_sae_top_5"
    on_snippets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "k_values", check_counts("k_values", self.k_values))
        keep_int(self, "train_rows", 2)
        keep_int(self, "test_rows", 1)
        keep_int(self, "n_resamples", 1)
        keep_int(self, "seed", 0)

    @property
    def views(self) -> tuple[View, ...]:
        """Inputs of all probes: the latents, the activations, and all of the activations."""
        latents = [View(f"sae_top_{k}", k) for k in self.k_values]
        activations = [View(f"llm_top_{k}", k) for k in self.k_values]
        return (*latents, *activations, View("llm_all", None))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the scores."""
        return tuple(f"sparse_probing_{q}_{view.name}" for q in QUESTIONS for view in self.views)

    def check(self, snippets: Snippets, d_sae: int) -> None:
        """Refuse what there are too few snippets or latents for.

        Raises:
            InvalidOption: too few.
        """
        check_counts("k_values", self.k_values, d_sae)
        for cell in cells_of(snippets):
            snippets.require("train_rows", self.train_rows, "train", cell, self.train_rows)
            snippets.require("test_rows", self.test_rows, "test", cell, self.test_rows)

    def run(self, activations: CellActivations) -> dict[str, Any]:
        """Scores, intervals and details."""
        cells = cells_of(activations.snippets)
        train = activations.table("train", cells, self.train_rows)
        test = activations.table("test", cells, self.test_rows)
        cell_of_row = np.arange(len(test.x)) // self.test_rows
        scores: dict[str, float] = {}
        intervals: dict[str, Interval] = {}
        details: dict[str, Any] = {"rows_of_a_cell": [self.train_rows, self.test_rows]}
        for question in QUESTIONS:
            classes = classes_of(question, cells)
            splits = draw_splits(
                [train.of(*own) for own in classes.values()],
                [test.of(*own) for own in classes.values()],
                torch.Generator().manual_seed(self.seed),
            )
            per_class: dict[str, dict[str, float]] = {}
            for what in self.views:
                name = f"sparse_probing_{question}_{what.name}"
                latents = what.name.startswith("sae")
                learned, tested = (train.f, test.f) if latents else (train.x, test.x)
                verdicts = probe_classes(learned, tested, splits, what.k)
                accuracies = verdicts.accuracies()
                scores[name] = float(accuracies.mean())
                intervals[name] = self.interval(verdicts, cell_of_row)
                per_class[what.name] = dict(zip(classes, accuracies.tolist(), strict=True))
            details[question] = {"accuracy_per_class": per_class}
        return {"scores": scores, "intervals": intervals, "details": details}

    def interval(self, verdicts: Verdicts, cell_of_row: Int[np.ndarray, " n"]) -> Interval:
        """Of the mean accuracy over classes."""

        def mean(counts: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r 1"]:
            return verdicts.accuracies(counts).mean(-1, keepdims=True)

        return score_intervals(["mean"], mean, cell_of_row, self.seed, self.n_resamples)["mean"]


def cells_of(snippets: Snippets) -> list[Cell]:
    """Return all cells, in one order."""
    return [(package, kind) for package in snippets.packages for kind in KINDS]


def classes_of(question: str, cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Return the cells of each class, balanced over the other label."""
    label = QUESTIONS.index(question)
    names = dict.fromkeys(cell[label] for cell in cells)
    return {name: [cell for cell in cells if cell[label] == name] for name in names}


def draw_splits(
    train: Sequence[Int[Tensor, " rows"]],
    test: Sequence[Int[Tensor, " rows"]],
    generator: torch.Generator,
) -> list[Split]:
    """Balanced rows for each class in turn, training rows first."""
    return [
        Split(one_against_rest(train, n, generator), one_against_rest(test, n, generator))
        for n in range(len(train))
    ]


def probe_classes(
    learned: Float[Tensor, "train_rows n"],
    tested: Float[Tensor, "test_rows n"],
    splits: Sequence[Split],
    k: int | None,
) -> Verdicts:
    """Train and test a probe a class on the k most different features, or on all for None."""
    right = np.zeros((len(tested), len(splits)), dtype=bool)
    asked = np.zeros_like(right)
    for column, (train, test) in enumerate(splits):
        features = learned[train.numbers]
        chosen = slice(None) if k is None else most_different(features, train.labels, k)
        probe = logistic_regression(features[:, chosen], train.labels)
        answers = probe.predict(tested[test.numbers][:, chosen].float().numpy())
        right[test.numbers.numpy(), column] = answers == test.labels.numpy()
        asked[test.numbers.numpy(), column] = True
    return Verdicts(right, asked)
