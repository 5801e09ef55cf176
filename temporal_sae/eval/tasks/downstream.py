"""Loss of the language model on a class of text when that class's latents are ablated.

Probes show that latents tell classes apart; this shows whether the model uses them. For each kind
of snippet (code, docstring, comment) the latents whose means differ most between its training
snippets and the others' are set to zero at the hook, the SAE's error is kept, and the
cross-entropy of the test snippets is compared with that of the untouched model. Latents that carry
their class raise it there more than elsewhere: `downstream_selectivity`. The control ablates as
many random latents that are active on the class. `downstream_equal_norm_*` are the same where every
class's latents take equally much away (see `equal_norm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from temporal_sae.activations import LanguageModel
from temporal_sae.errors import InvalidOption, check_number, keep_int
from temporal_sae.eval.statistics import sum_interval
from temporal_sae.eval.tasks.activations import CellActivations, Tokens, tokenize
from temporal_sae.eval.tasks.equal_norm import token_factors
from temporal_sae.eval.tasks.options import EQUAL_NORM
from temporal_sae.eval.tasks.python_sources import KINDS
from temporal_sae.eval.tasks.snippets import Snippets
from temporal_sae.metrics import declare, of_tasks
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder

METRICS = declare(
    of_tasks(name="downstream_ce_increase"),
    of_tasks(name="downstream_ce_increase_others"),
    of_tasks(
        name="downstream_selectivity",
        better="higher",
        label="cross-entropy that ablating a kind's latents costs it beyond others",
    ),
    of_tasks(name="downstream_equal_norm_ce_increase"),
    of_tasks(name="downstream_equal_norm_ce_increase_others"),
    of_tasks(name="downstream_equal_norm_selectivity", better="higher"),
    of_tasks(name="downstream_control_ce_increase", compared=False),
    of_tasks(
        name="downstream_control_selectivity",
        compared=False,
        label="… with as many latents drawn at random",
    ),
)


@component("eval.downstream")
@dataclass(frozen=True)
class Downstream:
    """Options of the task.

    Attributes:
        n_latents: latents ablated for each class.
        train_rows: training snippets of each package and kind, by which they are chosen.
        test_rows: test snippets of each package and kind.
        equal_norm: share of the activations' deviation that is removed where it is made equal.
        batch_texts: snippets in one forward pass.
        n_resamples: of the bootstrap over test snippets.
        seed: of the control's latents and the bootstrap.

    Raises:
        InvalidOption: an option is out of range.
    """

    n_latents: int = 10
    train_rows: int = 60
    test_rows: int = 12
    equal_norm: float = EQUAL_NORM
    batch_texts: int = 12
    n_resamples: int = 1000
    seed: int = 0

    name: ClassVar[str] = "downstream"
    headline: ClassVar[str] = "downstream_selectivity"
    on_snippets: ClassVar[bool] = True
    metric_names: ClassVar[tuple[str, ...]] = tuple(m.name for m in METRICS)

    def __post_init__(self) -> None:
        for option in ("n_latents", "train_rows", "test_rows", "batch_texts", "n_resamples"):
            keep_int(self, option, 1)
        check_number("equal_norm", self.equal_norm, above=True)
        keep_int(self, "seed", 0)

    def check(self, snippets: Snippets, d_sae: int) -> None:
        """Refuse what there are too few snippets or latents for.

        Raises:
            InvalidOption: too few.
        """
        if self.n_latents > d_sae:
            raise InvalidOption("n_latents", self.n_latents, f"at most sae.d_sae, which is {d_sae}")
        for package in snippets.packages:
            for kind in KINDS:
                cell = (package, kind)
                snippets.require("train_rows", self.train_rows, "train", cell, self.train_rows)
                snippets.require("test_rows", self.test_rows, "test", cell, self.test_rows)

    @torch.no_grad()
    def run(self, activations: CellActivations) -> dict[str, Any]:
        """`scores`, `intervals` and `details`."""
        packages = activations.snippets.packages
        cells = [(package, kind) for kind in KINDS for package in packages]
        labels = np.repeat(np.arange(len(KINDS)), len(packages))
        train = activations.table("train", cells, self.train_rows).f
        train_labels = torch.from_numpy(np.repeat(labels, self.train_rows))
        chosen = class_latents(train, train_labels, self.n_latents)
        control = active_latents(train, train_labels, chosen, self.seed)
        texts = [
            text
            for cell in cells
            for text in activations.snippets.texts("test", cell, 0, self.test_rows)
        ]
        by_text = self.increases(activations, texts, [*chosen, *control], chosen)
        test_labels = np.repeat(labels, self.test_rows)
        own, random, scaled = np.split(by_text, 3, axis=1)
        found_scores = {
            **self.summary("downstream_", own, test_labels),
            **self.summary("downstream_control_", random, test_labels),
            **self.summary("downstream_equal_norm_", scaled, test_labels),
        }
        return {
            "scores": {name: found_scores[name][0] for name in self.metric_names},
            "intervals": {name: found_scores[name][1] for name in self.metric_names},
            "details": {
                "classes": [
                    {
                        "class": kind,
                        "latents": chosen[c].tolist(),
                        "control_latents": control[c].tolist(),
                        "ce_increase": group_means(own[:, c], test_labels),
                        "control_ce_increase": group_means(random[:, c], test_labels),
                    }
                    for c, kind in enumerate(KINDS)
                ]
            },
        }

    def increases(
        self,
        activations: CellActivations,
        texts: Sequence[str],
        ablations: Sequence[Int[Tensor, " n"]],
        scaled: Sequence[Int[Tensor, " n"]] = (),
    ) -> NDArray[np.float64]:
        """Return the rise of each text's cross-entropy with each set ablated, [texts, sets].

        Texts run together with those of their length, so that little is padding.

        Args:
            activations: the language model and the SAE.
            texts: those that are read.
            ablations: sets of latents that are set to zero.
            scaled: further sets, of which equally much is taken away; their columns come last.
        """
        tokens = tokenize(texts, activations.source)
        model, sae = activations.source.language_model, activations.sae
        places = tokens.lengths.argsort(stable=True).split(self.batch_texts)
        batches = []
        for rows in places:
            longest = int(tokens.lengths[rows].max())
            batches.append(Tokens(tokens.ids[rows, :longest], tokens.counted[rows, :longest]))
        factors = [1.0] * len(ablations)
        factors += token_factors(model, sae, batches, scaled, self.equal_norm) if scaled else []
        sets = [*ablations, *scaled]
        increases = torch.zeros(len(texts), len(sets), dtype=torch.float64)
        for rows, batch in zip(places, batches, strict=True):
            found = ablated_cross_entropies(model, sae, batch, sets, factors)
            increases[rows] = found[:, 1:] - found[:, :1]
        return increases.numpy()

    def summary(
        self, prefix: str, increases: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> dict[str, tuple[float, tuple[float, float]]]:
        """(score, interval) by name: increase on the class, on the others, and the difference.

        Args:
            prefix: of the names.
            increases: [texts, classes], of each text's cross-entropy, by the class ablated for.
            labels: class of each text.
        """
        own, others = class_weights(labels)
        weights = {
            "ce_increase": own,
            "ce_increase_others": others,
            "selectivity": own - others,
        }
        summary: dict[str, tuple[float, tuple[float, float]]] = {}
        for name, weight in weights.items():
            shares = (weight * increases).sum(1)
            interval = sum_interval(shares, self.seed, labels, self.n_resamples)
            summary[prefix + name] = float(shares.sum()), interval
        return summary


def class_latents(
    means: Float[Tensor, "texts d_sae"], labels: Int[Tensor, " texts"], n: int
) -> list[Int[Tensor, " n"]]:
    """For each class, the n latents whose mean on its texts exceeds that on the others most."""
    return [
        (means[labels == c].mean(0) - means[labels != c].mean(0)).topk(n).indices
        for c in range(int(labels.max()) + 1)
    ]


def active_latents(
    means: Float[Tensor, "texts d_sae"],
    labels: Int[Tensor, " texts"],
    chosen: Sequence[Int[Tensor, " n"]],
    seed: int,
) -> list[Int[Tensor, " n"]]:
    """For each class, as many random latents that are active on its texts and not chosen.

    Fewer where there are not so many.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for c, own in enumerate(chosen):
        active = (means[labels == c] > 0).any(0)
        active[own] = False
        candidates = active.nonzero()[:, 0]
        order = torch.randperm(len(candidates), generator=generator)
        drawn.append(candidates[order[: len(own)]])
    return drawn


@torch.no_grad()
def ablated_cross_entropies(
    model: LanguageModel,
    sae: SparseAutoencoder,
    tokens: Tokens,
    ablations: Sequence[Int[Tensor, " n"]],
    factors: Sequence[float],
) -> Float[Tensor, "texts runs"]:
    """Mean cross-entropy of each text: first untouched, then with each set of latents ablated.

    At counted tokens x becomes x - s Σ_j f_j(x) d_j over the set, with its factor s (1: the latents
    are set to zero), so that what the SAE does not reconstruct stays. Tokens that do not count are
    left as they are. Float64, in nats.
    """
    logits, behind_hook = model.plain_pass(tokens.ids)
    results = [cross_entropies(logits, tokens)]
    del logits  # each pass has its own
    counted = tokens.counted.to(model.device)
    acts: Tensor | None = None

    def without(latents: Tensor, factor: float, x: Tensor) -> Tensor:
        nonlocal acts
        if acts is None:
            acts = sae.encode_dense(x[counted].to(sae.W_dec.dtype))
        removed = torch.zeros_like(x)
        removed[counted] = (factor * (acts[:, latents] @ sae.W_dec[latents])).to(removed.dtype)
        return x - removed

    for latents, factor in zip(ablations, factors, strict=True):
        results.append(cross_entropies(behind_hook(partial(without, latents, factor)), tokens))
    return torch.stack(results, dim=1)


def cross_entropies(
    logits: Float[Tensor, "texts context vocab"], tokens: Tokens
) -> Float[Tensor, " texts"]:
    """Mean of -log p over the counted tokens of each text but its first position."""
    targets = tokens.ids[:, 1:].to(logits.device)
    counted = tokens.counted[:, 1:].to(logits.device)
    ahead = logits[:, :-1].float()
    at_target = ahead.gather(-1, targets[..., None])[..., 0]
    losses = (ahead.logsumexp(-1) - at_target).double() * counted
    return (losses.sum(1) / counted.sum(1).clamp(min=1)).cpu()


def class_weights(
    labels: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights [texts, classes] that make a mean over classes of means over texts a sum.

    The first over the texts of the class itself, the second over those of the others.
    """
    own = np.eye(int(labels.max()) + 1, dtype=bool)[labels]
    n_classes = own.shape[1]
    return own / own.sum(0) / n_classes, ~own / (~own).sum(0) / n_classes


def group_means(values: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Mean over the texts of each kind."""
    return {kind: float(values[labels == c].mean()) for c, kind in enumerate(KINDS)}
