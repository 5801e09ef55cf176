"""Targeted probe perturbation (TPP): does ablating one class's latents leave the others alone?

SAEBench's definition. For each package a probe tells its snippets from the others'. The latents
with the strongest effect on one package's probe are ablated. That shall cost this probe accuracy
(the intended difference) and no other (the unintended difference, a mean over the others):

    total = intended - unintended,

averaged over packages. `tpp_equal_norm_*` are the same where every ablation takes equally much away
(see `equal_norm`). Every package is half docstrings and half code. SAEBench draws the rows that
stand for the other classes anew for each measurement; here one draw serves all, so that differences
are between the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.eval.tasks.activations import CellActivations, Table
from temporal_sae.eval.tasks.effects import class_effects, logits_without, strongest
from temporal_sae.eval.tasks.options import AblationOptions, check_counts
from temporal_sae.eval.tasks.probes import (
    Rows,
    one_against_rest,
    plan_probe,
    train_probes,
)
from temporal_sae.eval.tasks.scr import cells_of
from temporal_sae.eval.tasks.snippets import Snippets
from temporal_sae.eval.tasks.verdicts import Verdicts, score_intervals
from temporal_sae.metrics import declare, of_tasks
from temporal_sae.registry import component

SCORES = ("tpp_total", "tpp_intended", "tpp_unintended")
SCORES_AT_EQUAL_NORM = tuple(score.replace("tpp_", "tpp_equal_norm_") for score in SCORES)


declare(
    of_tasks(
        name="tpp_total_threshold_20",
        better="higher",
        label="TPP, 20 latents ablated (accuracy lost on the class alone)",
    ),
    of_tasks(name="tpp_total_threshold_*", better="higher"),
    of_tasks(name="tpp_intended_threshold_*", better="higher"),
    of_tasks(name="tpp_unintended_threshold_*", better="lower"),
    of_tasks(name="tpp_equal_norm_total_threshold_*", better="higher"),
    of_tasks(name="tpp_equal_norm_intended_threshold_*", better="higher"),
    of_tasks(name="tpp_equal_norm_unintended_threshold_*", better="lower"),
)


@component("eval.tpp")
@dataclass(frozen=True)
class TargetedProbePerturbation(AblationOptions):
    """TPP over the packages."""

    name: ClassVar[str] = "tpp"
    headline: ClassVar[str] = "tpp_total_threshold_20"
    on_snippets: ClassVar[bool] = True

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the scores."""
        scores = (*SCORES, *SCORES_AT_EQUAL_NORM)
        return tuple(f"{score}_threshold_{n}" for score in scores for n in self.n_values)

    def check(self, snippets: Snippets, d_sae: int) -> None:
        """Refuse what there are too few snippets or latents for.

        Raises:
            InvalidOption: too few.
        """
        check_counts("n_values", self.n_values, d_sae)
        for cell in cells_of(snippets.packages):
            snippets.require("train_rows", self.train_rows, "train", cell, self.train_rows)
            snippets.require("test_rows", self.test_rows, "test", cell, self.test_rows)

    def run(self, activations: CellActivations) -> dict[str, Any]:
        """Scores, intervals and details."""
        packages = activations.snippets.packages
        train = activations.table("train", cells_of(packages), self.train_rows)
        test = activations.table("test", cells_of(packages), self.test_rows)
        W_dec = activations.sae.W_dec.detach().float().cpu()
        generator = torch.Generator().manual_seed(self.seed)
        shares = (None, self.equal_norm)
        verdicts = judge(train, test, packages, self.n_values, W_dec, generator, shares)
        shape = (len(packages), len(self.n_values))

        def scores_of(counts: Float[np.ndarray, "r n"] | None) -> Float[np.ndarray, "... s"]:
            parts = []
            for accuracies in by_share(verdicts.accuracies(counts), len(packages), len(shares)):
                scores = perturbation_scores(accuracy_differences(accuracies, *shape)).mean(-1)
                parts.append(scores.reshape(*scores.shape[:-2], -1))
            return np.concatenate(parts, axis=-1)

        names = self.metric_names
        cell_of_row = np.arange(len(test.x)) // self.test_rows
        accuracies, _ = by_share(verdicts.accuracies(), len(packages), len(shares))
        by_class = perturbation_scores(accuracy_differences(accuracies, *shape))
        return {
            "scores": dict(zip(names, scores_of(None).tolist(), strict=True)),
            "intervals": score_intervals(
                names, scores_of, cell_of_row, self.seed, self.n_resamples
            ),
            "details": {
                "rows_of_a_cell": [self.train_rows, self.test_rows],
                "accuracy_clean": dict(
                    zip(packages, accuracies[: len(packages)].tolist(), strict=True)
                ),
                "classes": {
                    package: {name: by_class[s, :, c].tolist() for s, name in enumerate(SCORES)}
                    for c, package in enumerate(packages)
                },
            },
        }


def judge(
    train: Table,
    test: Table,
    packages: Sequence[str],
    n_values: Sequence[int],
    W_dec: Float[Tensor, "d_sae d_in"],
    generator: torch.Generator,
    shares: Sequence[float | None] = (None,),
) -> Verdicts:
    """Return the test rows that each probe gets right.

    Args:
        train, test: rows of docstrings and code of each package.
        packages: the classes.
        n_values: numbers of latents that are ablated.
        W_dec: the decoder.
        generator: rows and probes, in SAEBench's order: for each class its rows and its probe; the
            test rows of each class; the training rows of each class's effects.
        shares: to which what is removed is scaled; None: not at all.

    Returns:
        The columns are, each for all probes: as it is; then for every share, for every class whose
        latents are ablated, for every number of them.
    """
    classes = [[table.of(*cells_of([p])) for p in packages] for table in (train, test)]
    plans = []
    for number in range(len(packages)):
        learned, tested = (one_against_rest(own, number, generator) for own in classes)
        plans.append(plan_probe(learned, tested, train.x.shape[1], generator))
    probes = train_probes(plans, train.x, test.x)
    asked = [one_against_rest(classes[1], n, generator) for n in range(len(packages))]
    effects = [
        class_effects(train.f, one_against_rest(classes[0], n, generator), probe, W_dec)
        for n, probe in enumerate(probes)
    ]
    ablations: list[tuple[Tensor, float | None]] = [(torch.zeros(0, dtype=torch.int64), None)]
    ablations += [
        (strongest(own, n), share) for share in shares for own in effects for n in n_values
    ]
    columns = [
        logits_without(ablated, test.x, test.f, probe, W_dec, share) > 0
        for ablated, share in ablations
        for probe in probes
    ]
    return verdicts_of(torch.stack(columns, dim=1), asked, len(ablations))


def by_share(
    accuracies: Float[np.ndarray, "... columns"], n_classes: int, n_shares: int
) -> list[Float[np.ndarray, "... own_columns"]]:
    """Return the accuracies as they are and with the ablations of each share."""
    clean, ablated = accuracies[..., :n_classes], accuracies[..., n_classes:]
    parts = np.split(ablated, n_shares, axis=-1)
    return [np.concatenate([clean, part], axis=-1) for part in parts]


def verdicts_of(positive: Tensor, asked: Sequence[Rows], repeats: int) -> Verdicts:
    """Compare answers, bool [rows, repeats * classes], with the labels of each class's rows."""
    labels = torch.zeros(len(positive), len(asked), dtype=torch.bool)
    tested = torch.zeros_like(labels)
    for column, rows in enumerate(asked):
        labels[rows.numbers, column] = rows.labels == 1
        tested[rows.numbers, column] = True
    right = positive == labels.repeat(1, repeats)
    return Verdicts(right.numpy(), tested.repeat(1, repeats).numpy())


def accuracy_differences(
    accuracies: Float[np.ndarray, "... columns"], n_classes: int, n_values: int
) -> Float[np.ndarray, "... n_values ablated probe"]:
    """Return the accuracy that each probe loses when each class's latents are ablated."""
    clean = accuracies[..., None, None, :n_classes]
    ablated = accuracies[..., n_classes:]
    ablated = ablated.reshape(*ablated.shape[:-1], n_classes, n_values, n_classes)
    return np.swapaxes(clean - ablated, -3, -2)


def perturbation_scores(
    differences: Float[np.ndarray, "... n_values ablated probe"],
) -> Float[np.ndarray, "... 3 n_values ablated"]:
    """Total, intended and unintended difference of each class."""
    intended = np.diagonal(differences, axis1=-2, axis2=-1)
    others = differences.shape[-1] - 1
    unintended = (differences.sum(-1) - intended) / others
    return np.stack([intended - unintended, intended, unintended], axis=-3)
