"""Linear probes on pooled activations, and the rows they are trained and tested on.

The rows are drawn as SAEBench draws them, and in the same order of draws, so that a generator with
a seed gives the rows that SAEBench takes after `torch.manual_seed` of the same seed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


class Rows(NamedTuple):
    """Rows of a table with the label of each: 1 for the positive class, else 0."""

    numbers: Int[Tensor, " rows"]
    labels: Int[Tensor, " rows"]


def one_against_other(
    positive: Int[Tensor, " p"], negative: Int[Tensor, " n"], generator: torch.Generator
) -> Rows:
    """Return all positive rows and as many negative ones, at random and in random order."""
    chosen = negative[torch.randperm(len(negative), generator=generator)[: len(positive)]]
    labels = torch.cat([torch.ones(len(positive)), torch.zeros(len(chosen))]).long()
    order = torch.randperm(len(labels), generator=generator)
    return Rows(torch.cat([positive, chosen])[order], labels[order])


def one_against_rest(
    classes: Sequence[Int[Tensor, " rows"]], positive: int, generator: torch.Generator
) -> Rows:
    """Return all rows of one class and as many of the others, in equal parts, in random order."""
    others = [rows for number, rows in enumerate(classes) if number != positive]
    each = math.ceil(len(classes[positive]) / len(others))
    drawn = [o[torch.randperm(len(o), generator=generator)[:each]] for o in others]
    return one_against_other(classes[positive], torch.cat(drawn), generator)


def most_different(
    features: Float[Tensor, "rows n"], labels: Int[Tensor, " rows"], k: int
) -> Int[Tensor, " k"]:
    """Return the k features whose means in both classes differ most, in ascending order."""
    difference = features[labels == 1].mean(0) - features[labels == 0].mean(0)
    return torch.argsort(difference.abs(), descending=True)[:k].sort().values


def classifier(**options: Any) -> LogisticRegression:
    """scikit-learn's; imported when it is needed, which takes a second or two."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(**options)


def logistic_regression(
    features: Float[Tensor, "rows n"], labels: Int[Tensor, " rows"]
) -> LogisticRegression:
    """scikit-learn's, with an L2 penalty, C = 1 and at most 1000 iterations."""
    from sklearn.exceptions import ConvergenceWarning

    probe = classifier(C=1.0, max_iter=1000)
    with warnings.catch_warnings():
        # Activations are not standardised; what 1000 iterations reach is the definition.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(features.float().numpy(), labels.numpy())


class LinearProbe(NamedTuple):
    """A direction and an offset: positive where x · weight + bias > 0."""

    weight: Float[Tensor, " d_in"]
    bias: Float[Tensor, ""]

    def logits(self, x: Float[Tensor, "rows d_in"]) -> Float[Tensor, " rows"]:
        """x · weight + bias."""
        return x @ self.weight + self.bias


class ProbeTraining(NamedTuple):
    """Training of the probes of SCR and TPP; the values are SAEBench's.

    Attributes:
        batch_size: rows of a step. How much of a spurious correlation a probe takes up depends on
            it.
        epochs: passes over the training rows.
        lr: of AdamW.
        l1_penalty: weight of Σ|weight|.
    """

    batch_size: int = 16
    epochs: int = 20
    lr: float = 1e-3
    l1_penalty: float = 1e-3


SAEBENCH = ProbeTraining()


class ProbePlan(NamedTuple):
    """All that is random about a probe.

    Attributes:
        learned: rows that it learns from.
        tested: rows by which the best epoch is chosen.
        start: the initial probe.
        orders: int [epochs, learned rows], the order of the rows in each epoch.
    """

    learned: Rows
    tested: Rows
    start: LinearProbe
    orders: Int[Tensor, "epochs rows"]


def plan_probe(
    learned: Rows,
    tested: Rows,
    d_in: int,
    generator: torch.Generator,
    training: ProbeTraining = SAEBENCH,
) -> ProbePlan:
    """Draw the initial weights as `nn.Linear` draws them, then the order of each epoch."""
    bound = 1 / math.sqrt(d_in)
    weight = torch.empty(d_in).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(()).uniform_(-bound, bound, generator=generator)
    n_rows = len(learned.labels)
    orders = [torch.randperm(n_rows, generator=generator) for _ in range(training.epochs)]
    return ProbePlan(learned, tested, LinearProbe(weight, bias), torch.stack(orders))


def train_probes(
    plans: Sequence[ProbePlan],
    x: Float[Tensor, "train_rows d_in"],
    x_test: Float[Tensor, "test_rows d_in"],
    training: ProbeTraining = SAEBENCH,
) -> list[LinearProbe]:
    """Return the probes of SCR and TPP: of each, the epoch with the best test accuracy.

    Not scikit-learn's: these probes stop long before the minimum of any loss, and the scores depend
    on where. On the bundled model a logistic regression with C from 1e-4 to 1 gave an SCR of 0.29
    to 0.33 at 100 ablated latents where this gives 0.20, and a TPP of 0.08 to 0.23 where this gives
    0.13. Other initial weights and orders of the rows move both by up to 0.06.

    Args:
        plans: with equally many rows each; the probes are trained side by side.
        x: activations that `learned` of the plans counts through.
        x_test: activations that `tested` counts through.
        training: how they learn.
    """
    weight = nn.Parameter(torch.stack([plan.start.weight for plan in plans]))
    bias = nn.Parameter(torch.stack([plan.start.bias for plan in plans]))
    optimizer = torch.optim.AdamW([weight, bias], lr=training.lr)
    numbers = torch.stack([plan.learned.numbers for plan in plans])
    targets = torch.stack([plan.learned.labels for plan in plans]).to(x.dtype)
    tested = x_test[torch.stack([plan.tested.numbers for plan in plans])]
    answers = torch.stack([plan.tested.labels for plan in plans]) == 1
    best_right = torch.full((len(plans),), -1)
    best_weight, best_bias = weight.detach().clone(), bias.detach().clone()
    for epoch in range(training.epochs):
        orders = torch.stack([plan.orders[epoch] for plan in plans])
        for batch in orders.split(training.batch_size, dim=1):
            with torch.enable_grad():
                loss = probe_losses(
                    weight,
                    bias,
                    x[numbers.gather(1, batch)],
                    targets.gather(1, batch),
                    training.l1_penalty,
                ).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            logits = (tested @ weight[..., None])[..., 0] + bias[:, None]
            right = ((logits > 0) == answers).sum(1)
            better = right > best_right
            best_right = torch.where(better, right, best_right)
            best_weight = torch.where(better[:, None], weight, best_weight)
            best_bias = torch.where(better, bias, best_bias)
    return [LinearProbe(w, b) for w, b in zip(best_weight, best_bias, strict=True)]


def probe_losses(
    weight: Float[Tensor, "probes d_in"],
    bias: Float[Tensor, " probes"],
    x: Float[Tensor, "probes rows d_in"],
    targets: Float[Tensor, "probes rows"],
    l1_penalty: float,
) -> Float[Tensor, " probes"]:
    """Mean binary cross-entropy and the L1 penalty of each probe."""
    logits = (x @ weight[..., None])[..., 0] + bias[:, None]
    losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return losses.mean(1) + l1_penalty * weight.abs().sum(1)
