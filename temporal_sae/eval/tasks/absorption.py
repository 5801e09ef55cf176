"""Absorption on identifier words: of their first letter, and of how they are written.

Chanin et al., A is for Absorption (2409.14507), with the scores of SAEBench 0.6.0: does a latent
that stands for a first letter stay silent on words whose own latents have taken the letter in?
Lower is better. What differs from SAEBench is what a small vocabulary needs: words and template, a
test set that holds every letter, one prompt a word for all stages, and probes that are trained to
their minimum (absorption_probes.py).

A small model that has read code alone hardly knows letters; the bundled one was also trained on
facts about spelling, none of them in the form of the template. The same scores are taken of two
concepts that any model of code knows, that a word begins with a space and that it begins with a
capital: `absorption_shape_*`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from temporal_sae.activations import Harvest
from temporal_sae.errors import InvalidOption, RunError, check_number, keep_int
from temporal_sae.eval.statistics import bootstrap_interval, sum_interval
from temporal_sae.eval.subject import Subject
from temporal_sae.eval.tasks.absorbed import ConceptAbsorption, absorption_by_concept
from temporal_sae.eval.tasks.absorption_probes import (
    MainLatents,
    f1_scores,
    main_latents,
    sparse_weights,
    true_probes,
)
from temporal_sae.eval.tasks.words import (
    Template,
    Words,
    check_words,
    concepts_of,
    find_words,
    make_prompts,
    split_words,
)
from temporal_sae.metrics import declare, of_tasks
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder

ENOUGH_LETTERS = 20  # with fewer SAEBench gives no score
ENCODED_AT_ONCE = 1024
Interval = tuple[float, float]


class Concept(NamedTuple):
    """Results for a concept: its name, its probe's F1, its main latents, its words."""

    name: str
    probe_f1: float
    main: MainLatents
    result: ConceptAbsorption

    def details(self, words: Words) -> dict[str, Any]:
        """Counts, rates, and which latent has absorbed which word."""
        full, fraction, top = self.result.found
        absorbed = full.nonzero()[:, 0].tolist()
        return {
            "concept": self.name,
            "probe_f1": self.probe_f1,
            "probe_true_positives": len(full),
            "main_latents": self.main.latents,
            "k_sparse_f1": self.main.f1_by_k,
            "full": float(full.double().mean()),
            "fraction": float(fraction.mean()),
            "absorbed": {words.texts[int(self.result.words[i])]: int(top[i]) for i in absorbed},
        }


METRICS = declare(
    of_tasks(
        name="absorption_full",
        better="lower",
        label="absorption of first letters, full (lower is better)",
    ),
    of_tasks(
        name="absorption_fraction",
        better="lower",
        label="absorption of first letters, fraction (lower is better)",
    ),
    of_tasks(name="absorption_split_latents"),
    of_tasks(
        name="absorption_letters",
        compared=False,
        label="letters that the model knows, on which this was measured",
    ),
    of_tasks(
        name="absorption_shape_full",
        better="lower",
        label="absorption of a leading space or capital, full",
    ),
    of_tasks(
        name="absorption_shape_fraction",
        better="lower",
        label="absorption of a leading space or capital, fraction",
    ),
)


@component("eval.absorption")
@dataclass(frozen=True)
class Absorption:
    """Options of the task.

    Attributes:
        template: a line that tells a word's first letter; `{word}`, then `{letter}`.
        n_examples: such lines before the word.
        max_words: words taken at most, drawn at random.
        test_share: share of each letter's words that are test words.
        probe_weight_decay: L2 term of the ground-truth probes.
        l1_decay: L1 term of the probes that choose the latents of the k-sparse probes.
        max_k: latents of the largest k-sparse probe.
        f1_jump_threshold: a further latent is a main one when it raises the F1 by more than this.
        min_probe_f1: concepts whose ground-truth probe does no better are not counted.
        min_letters: letters that must be left.
        batch_prompts: prompts in one forward pass.
        n_resamples: of the bootstrap.
        seed: of the split, the examples and the bootstrap.

    Raises:
        InvalidOption: an option is out of range.
    """

    template: str = "\n{word}: '{letter}'"
    n_examples: int = 3
    max_words: int = 5000
    test_share: float = 0.2
    probe_weight_decay: float = 1e-4
    l1_decay: float = 0.01
    max_k: int = 10
    f1_jump_threshold: float = 0.03
    min_probe_f1: float = 0.6
    min_letters: int = 1
    batch_prompts: int = 64
    n_resamples: int = 1000
    seed: int = 0

    name: ClassVar[str] = "absorption"
    headline: ClassVar[str] = "absorption_fraction"
    on_snippets: ClassVar[bool] = False
    metric_names: ClassVar[tuple[str, ...]] = tuple(m.name for m in METRICS)

    def __post_init__(self) -> None:
        for option in ("max_k", "min_letters", "batch_prompts", "n_resamples"):
            keep_int(self, option, 1)
        if not isinstance(self.template, str) or "{word}" not in self.template:
            raise InvalidOption("template", self.template, "a line with {word} and {letter} in it")
        keep_int(self, "n_examples", 0)
        keep_int(self, "max_words", 100)
        keep_int(self, "seed", 0)
        check_number("test_share", self.test_share, 0, 0.9, above=True)
        check_number("probe_weight_decay", self.probe_weight_decay, above=True)
        check_number("l1_decay", self.l1_decay, above=True)
        check_number("f1_jump_threshold", self.f1_jump_threshold, 0, 1)
        check_number("min_probe_f1", self.min_probe_f1, 0, 1)

    def check(self, source: Harvest, sae: SparseAutoencoder) -> None:
        """Refuse a vocabulary or a dictionary that is too small.

        Raises:
            InvalidOption: the template, or more latents asked for than there are.
            RunError: too few words, or letters that are no single tokens.
        """
        if self.max_k > sae.d_sae:
            raise InvalidOption("max_k", self.max_k, f"at most sae.d_sae, which is {sae.d_sae}")
        check_words(source.language_model.tokenizer, self.template)

    @torch.no_grad()
    def run(self, subject: Subject) -> dict[str, Any]:
        """`scores`, `intervals` and `details`.

        Raises:
            RunError: the ground-truth probes find fewer than `min_letters` letters.
        """
        words, train, test = self.choose_words(subject.model.tokenizer)
        names, labels = concepts_of(words, train, test)
        x = self.activations(subject, words, words.take(train))
        W_dec = subject.sae.W_dec
        parts = x.to(W_dec.device, W_dec.dtype).split(ENCODED_AT_ONCE)
        acts = torch.cat([subject.sae.encode_dense(part).float().cpu() for part in parts])
        probes = true_probes(x[train], labels[train], self.probe_weight_decay)
        weights = sparse_weights(acts[train], labels[train], self.l1_decay)
        train_set, test_set = (acts[train], labels[train]), (acts[test], labels[test])
        main = main_latents(weights, train_set, test_set, self.max_k, self.f1_jump_threshold)
        predicted = probes.scores(x[test]) > 0
        f1 = f1_scores(predicted, labels[test]).tolist()
        found = absorption_by_concept(
            x[test], *test_set, probes, W_dec.float().cpu(), [own.latents for own in main]
        )
        concepts = list(map(Concept, names, f1, main, found))
        is_letter = torch.tensor([name in ascii_lowercase for name in names])
        interval = self.letters_interval(
            predicted[:, is_letter].numpy(), labels[test][:, is_letter].numpy()
        )
        result = self.summary(concepts, words.take(test), interval)
        self.warn(subject, result)
        return result

    def choose_words(self, tokenizer: Any) -> tuple[Words, NDArray[np.int64], NDArray[np.int64]]:
        """Return the words, and which are for training and which for the test."""
        words = find_words(tokenizer, Template(tokenizer, self.template))
        if len(words) > self.max_words:
            chosen = np.random.default_rng(self.seed).permutation(len(words))[: self.max_words]
            words = words.take(np.sort(chosen))
        train, test = split_words(words, self.test_share, self.seed)
        return words, train, test

    def activations(
        self, subject: Subject, words: Words, examples: Words
    ) -> Float[Tensor, "words d_in"]:
        """Activations at each word, in float32 on the CPU."""
        tokenizer = subject.model.tokenizer
        prompts = make_prompts(
            Template(tokenizer, self.template),
            words,
            examples,
            self.n_examples,
            self.seed,
            tokenizer.bos_token_id if subject.harvest.prepend_bos else None,
        )
        at_words = [
            subject.model.activations(batch)[:, -1].float().cpu()
            for batch in prompts.split(self.batch_prompts)
        ]
        return torch.cat(at_words)

    def summary(
        self, concepts: Sequence[Concept], words: Words, n_letters: Interval
    ) -> dict[str, Any]:
        """Means over the concepts that the model knows, letters apart from shapes.

        Intervals are over words within concepts, that of the number of main latents over letters.
        Where no shape is known its scores are NaN.

        Args:
            concepts: all of them.
            words: the test words.
            n_letters: interval of the number of letters.

        Raises:
            RunError: fewer than `min_letters` letters are known.
        """
        known = [concept for concept in concepts if concept.probe_f1 > self.min_probe_f1]
        letters = [concept for concept in known if concept.name in ascii_lowercase]
        shapes = [concept for concept in known if concept.name not in ascii_lowercase]
        if len(letters) < self.min_letters:
            raise RunError(
                f"absorption: probes tell only {len(letters)} first letters from activations (F1 "
                f"> {self.min_probe_f1:g} on test words), fewer than min_letters="
                f"{self.min_letters}; read another layer, or change min_letters or min_probe_f1"
            )
        split = np.array([len(letter.main.latents) for letter in letters]) / len(letters)
        found: dict[str, tuple[float, Interval]] = {
            **self.rates("absorption_", letters),
            "absorption_split_latents": (
                float(split.sum()),
                sum_interval(split, self.seed, n_resamples=self.n_resamples),
            ),
            "absorption_letters": (float(len(letters)), n_letters),
            **self.rates("absorption_shape_", shapes),
        }
        return {
            "scores": {name: score for name, (score, _) in found.items()},
            "intervals": {name: interval for name, (_, interval) in found.items()},
            "details": {
                "test_words": len(words),
                "letters": "".join(letter.name for letter in letters),
                "words_of_letters": sum(len(letter.result.words) for letter in letters),
                "concepts": [concept.details(words) for concept in concepts],
            },
        }

    def rates(self, prefix: str, concepts: Sequence[Concept]) -> dict[str, tuple[float, Interval]]:
        """Mean over concepts of the share that is absorbed, full and as a fraction."""
        rates: dict[str, tuple[float, Interval]] = {}
        sizes = [len(concept.result.words) for concept in concepts]
        groups = np.repeat(np.arange(len(sizes)), sizes)
        for name in ("full", "fraction"):
            if not concepts:
                rates[prefix + name] = float("nan"), (float("nan"), float("nan"))
                continue
            values = [getattr(concept.result.found, name).double() for concept in concepts]
            shares = torch.cat([v / len(v) / len(concepts) for v in values]).numpy()
            interval = sum_interval(shares, self.seed, groups, self.n_resamples)
            rates[prefix + name] = float(shares.sum()), interval
        return rates

    def letters_interval(
        self, predicted: Bool[NDArray, "words letters"], actual: Bool[NDArray, "words letters"]
    ) -> Interval:
        """Interval, over words within letters, of the number of letters that are known."""
        hits, n_words = predicted & actual, actual.sum(0)

        def n_letters(indices: NDArray[np.int64]) -> NDArray[np.float64]:
            total = predicted[indices].sum(1) + n_words  # every resample keeps the letters' sizes
            return (2 * hits[indices].sum(1) > self.min_probe_f1 * total).sum(1).astype(np.float64)

        return bootstrap_interval(
            n_letters, len(actual), self.seed, self.n_resamples, groups=actual.argmax(1)
        )

    def warn(self, subject: Subject, result: dict[str, Any]) -> None:
        """Say so when the letters' scores rest on few letters."""
        details = result["details"]
        if len(details["letters"]) < ENOUGH_LETTERS:
            subject.say(
                f"absorption: the model knows {len(details['letters'])} first letters "
                f"({details['letters']}; {details['words_of_letters']} test words), so the scores "
                "of letters say little; absorption_shape_* is of concepts that it knows"
            )
