"""Spurious correlation removal (SCR): can ablating a few latents rid a probe of a bias?

SAEBench's definition, with the package (of two) and the kind (docstring or code) as the attributes.
A probe is trained where both go together: docstrings of package A against code of package B. It is
asked for one attribute on data where both are balanced, which it answers badly as long as it relies
on the other. The latents that have the strongest effect on a probe of the other attribute are
ablated, and

    score = (accuracy after - accuracy before) / (accuracy of an unbiased probe - accuracy before)

is the share of the loss that is won back; 0 where there is less than 0.001 to win. Direction 1 asks
for the package and removes the kind, direction 2 the other way round. The score of a pair of
packages is that of the direction with the lower accuracy before. Where both are equal SAEBench
reports nothing; here it is the mean of both. Scores are averaged over pairs.
`scr_equal_norm_metric_*` are the same where every ablation takes equally much away: `equal_norm`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.eval.tasks.activations import CellActivations, Table
from temporal_sae.eval.tasks.effects import logits_without, removal_effects, strongest
from temporal_sae.eval.tasks.options import AblationOptions, check_counts
from temporal_sae.eval.tasks.probes import (
    LinearProbe,
    ProbePlan,
    one_against_other,
    plan_probe,
    train_probes,
)
from temporal_sae.eval.tasks.snippets import Cell, Snippets
from temporal_sae.eval.tasks.verdicts import Verdicts, score_intervals
from temporal_sae.metrics import declare, of_tasks
from temporal_sae.registry import component

LEAST_GAP = 0.001
ROLES = ("kind", "package", "biased")


declare(
    of_tasks(
        name="scr_metric_threshold_20",
        better="higher",
        label="SCR, 20 latents ablated (1: the spurious attribute is gone)",
    ),
    of_tasks(name="scr_metric_threshold_*", better="higher"),
    of_tasks(name="scr_equal_norm_metric_threshold_*", better="higher"),
)


@component("eval.scr")
@dataclass(frozen=True)
class SpuriousCorrelationRemoval(AblationOptions):
    """SCR over all pairs of packages; some probes take twice as many rows of two cells."""

    train_rows: int = 50
    test_rows: int = 25

    name: ClassVar[str] = "scr"
    headline: ClassVar[str] = "scr_metric_threshold_20"
    on_snippets: ClassVar[bool] = True

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the scores."""
        scores = ("scr_metric", "scr_equal_norm_metric")
        return tuple(f"{score}_threshold_{n}" for score in scores for n in self.n_values)

    def check(self, snippets: Snippets, d_sae: int) -> None:
        """Refuse what there are too few snippets or latents for.

        Raises:
            InvalidOption: too few.
        """
        check_counts("n_values", self.n_values, d_sae)
        for cell in cells_of(snippets.packages):
            snippets.require("train_rows", self.train_rows, "train", cell, 2 * self.train_rows)
            snippets.require("test_rows", self.test_rows, "test", cell, 2 * self.test_rows)

    def run(self, activations: CellActivations) -> dict[str, Any]:
        """Scores, intervals and details."""
        packages = activations.snippets.packages
        cells = cells_of(packages)
        train = activations.table("train", cells, 2 * self.train_rows)
        test = activations.table("test", cells, 2 * self.test_rows)
        W_dec = activations.sae.W_dec.detach().float().cpu()
        generator = torch.Generator().manual_seed(self.seed)
        pairs = list(itertools.combinations(packages, 2))
        plans = [
            {role: self.plan(role, train, test, pair, generator) for role in ROLES}
            for pair in pairs
        ]
        trained = iter(train_probes([p for plan in plans for p in plan.values()], train.x, test.x))
        judged = []
        for pair, plan in zip(pairs, plans, strict=True):
            probes = {role: next(trained) for role in plan}
            effects = attribute_effects(train.f, plan, probes, W_dec)
            balanced = test.of(*cells_of(pair), at_most=self.test_rows)
            rows, shares = (test.x[balanced], test.f[balanced]), (None, self.equal_norm)
            judged.append(judge(*rows, probes, effects, self.n_values, W_dec, shares))
        columns = [[cells.index(cell) for cell in cells_of(pair)] for pair in pairs]

        def scores_of(counts: Float[np.ndarray, "r n"] | None) -> Float[np.ndarray, "... n"]:
            by_pair = []
            for verdicts, own in zip(judged, columns, strict=True):
                drawn = None
                if counts is not None:
                    by_cell = counts.reshape(len(counts), len(cells), self.test_rows)
                    drawn = by_cell[:, own].reshape(len(counts), -1)
                by_pair.append(metric_of(verdicts.accuracies(drawn)))
            return np.mean(by_pair, axis=0)

        names = self.metric_names
        cell_of_row = np.arange(len(cells) * self.test_rows) // self.test_rows
        return {
            "scores": dict(zip(names, scores_of(None).tolist(), strict=True)),
            "intervals": score_intervals(
                names, scores_of, cell_of_row, self.seed, self.n_resamples
            ),
            "details": {
                "rows_of_a_cell": [self.train_rows, self.test_rows],
                "pairs": {
                    " / ".join(pair): self.details(verdicts.accuracies())
                    for pair, verdicts in zip(pairs, judged, strict=True)
                },
            },
        }

    def plan(
        self,
        role: str,
        train: Table,
        test: Table,
        pair: tuple[str, str],
        generator: torch.Generator,
    ) -> ProbePlan:
        """Return the rows of one of a pair's three probes.

        The balanced probes see the first `train_rows` of four cells, the biased one twice as many
        of the two cells where package and kind go together.
        """
        positive, negative = sides_of(pair)[role]
        factor = 2 if role == "biased" else 1
        learned, tested = (
            one_against_other(
                table.of(*positive, at_most=factor * n_rows),
                table.of(*negative, at_most=factor * n_rows),
                generator,
            )
            for table, n_rows in ((train, self.train_rows), (test, self.test_rows))
        )
        return plan_probe(learned, tested, train.x.shape[1], generator)

    def details(self, accuracies: Float[np.ndarray, " columns"]) -> dict[str, Any]:
        """Accuracies and scores of one pair, all for both directions."""
        own = accuracies[: 2 * (2 + len(self.n_values))]  # without those at equal norm
        clean, biased, changed = by_role(own)
        scores = direction_scores(own)
        return {
            "accuracy_unbiased": clean.tolist(),
            "accuracy_before": biased.tolist(),
            "accuracy_after": {
                str(n): a.tolist() for n, a in zip(self.n_values, changed, strict=True)
            },
            "scores": {str(n): s.tolist() for n, s in zip(self.n_values, scores, strict=True)},
        }


def cells_of(packages: Sequence[str]) -> list[Cell]:
    """Docstrings and code of each package."""
    return [cell for package in packages for cell in ((package, "docstring"), (package, "code"))]


def sides_of(pair: tuple[str, str]) -> dict[str, tuple[list[Cell], list[Cell]]]:
    """Return the positive and the negative cells of each of ROLES."""
    a_docs, a_code, b_docs, b_code = cells_of(pair)
    return {
        "kind": ([a_docs, b_docs], [a_code, b_code]),
        "package": ([a_docs, a_code], [b_docs, b_code]),
        "biased": ([a_docs], [b_code]),
    }


def attribute_effects(
    f: Float[Tensor, "rows d_sae"],
    plans: Mapping[str, ProbePlan],
    probes: Mapping[str, LinearProbe],
    W_dec: Float[Tensor, "d_sae d_in"],
) -> list[Float[Tensor, " d_sae"]]:
    """Return the effects by which latents are ablated, on the kind's and on the package's probe."""
    return [
        removal_effects(f, plans[role].learned, probes[role], W_dec) for role in ("kind", "package")
    ]


def judge(
    x: Float[Tensor, "rows d_in"],
    f: Float[Tensor, "rows d_sae"],
    probes: Mapping[str, LinearProbe],
    effects: Sequence[Float[Tensor, " d_sae"]],
    n_values: Sequence[int],
    W_dec: Float[Tensor, "d_sae d_in"],
    shares: Sequence[float | None] = (None,),
) -> Verdicts:
    """Return the rows of a balanced pair that each probe gets right.

    Args:
        x, f: equally many rows of docstrings and code of A, and of docstrings and code of B.
        probes: one for each of ROLES.
        effects: on the probe of the other attribute, for both directions.
        n_values: numbers of latents that are ablated.
        W_dec: the decoder.
        shares: to which what is removed is scaled; None: not at all.

    Returns:
        The columns are, each for both directions: the unbiased probe, the biased probe, and for
        every share the biased probe after each number of ablated latents.
    """
    n_rows = len(x) // 4
    is_a = torch.tensor([1, 1, 0, 0]).repeat_interleave(n_rows) == 1
    is_docstring = torch.tensor([1, 0, 1, 0]).repeat_interleave(n_rows) == 1
    logits = [probes[role].logits(x) for role in ("package", "kind", "biased", "biased")]
    logits += [
        logits_without(strongest(effect, n), x, f, probes["biased"], W_dec, share)
        for share in shares
        for n in n_values
        for effect in effects
    ]
    answers = torch.stack(logits, dim=1) > 0
    labels = torch.stack([is_a, is_docstring], dim=1).repeat(1, answers.shape[1] // 2)
    right = (answers == labels).numpy()
    return Verdicts(right, np.ones_like(right))


def by_role(
    accuracies: Float[np.ndarray, "... columns"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(unbiased [..., 2], before [..., 2], after [..., n_values, 2]), for both directions."""
    pairs = accuracies.reshape(*accuracies.shape[:-1], -1, 2)
    return pairs[..., 0, :], pairs[..., 1, :], pairs[..., 2:, :]


def direction_scores(
    accuracies: Float[np.ndarray, "... columns"],
) -> Float[np.ndarray, "... n_values 2"]:
    """Return the share of the loss that is won back, for both directions."""
    clean, biased, changed = by_role(accuracies)
    gap = (clean - biased)[..., None, :]
    won = changed - biased[..., None, :]
    return np.where(gap < LEAST_GAP, 0.0, won / np.where(gap < LEAST_GAP, 1.0, gap))


def metric_of(
    accuracies: Float[np.ndarray, "... columns"],
) -> Float[np.ndarray, "... n_values"]:
    """Return the score of the direction in which the biased probe is worse; of a tie, the mean."""
    _, biased, _ = by_role(accuracies)
    worse = (biased == biased.min(-1, keepdims=True))[..., None, :]
    return (direction_scores(accuracies) * worse).sum(-1) / worse.sum(-1)
