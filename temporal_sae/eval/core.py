"""Core evaluation on held-out text: how well the SAE reconstructs, and what the model loses by it.

Names and definitions are those of SAEBench's core evaluation, with two deliberate exceptions:
`explained_variance` is the textbook 1 - Σ‖x - x̂‖² / Σ‖x - mean‖² over all evaluated tokens, and
`mse` is a mean over all of them, whatever the batch. `explained_variance_legacy` is SAEBench's
older per-batch value, which published tables hold. BOS and the end-of-text tokens between documents
are left as they are and not counted, whatever training did with them.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae import schemas
from temporal_sae.activations import ActivationSource, LanguageModel
from temporal_sae.data import TextSource, TokenSequences, is_text
from temporal_sae.errors import RunError, keep_int
from temporal_sae.eval import behavior, reconstruction
from temporal_sae.eval.behavior import BehaviorSums
from temporal_sae.eval.reconstruction import ReconstructionSums
from temporal_sae.eval.subject import Outcome, Subject
from temporal_sae.latents import Latents
from temporal_sae.metrics import CORE_SECTION, Metric
from temporal_sae.registry import component, components
from temporal_sae.sae import SparseAutoencoder

log = logging.getLogger(__name__)


class Measure(Protocol):
    """A measure of the core evaluation, made for each SAE from its (sae, device).

    A class announced by `@component("measure")` is run by every core evaluation. `metrics` are its
    declarations, whose `groups` are "metrics" and a group of `eval/core.json`.
    """

    metrics: tuple[Metric, ...]

    def add(self, x: Tensor, latents: Latents, x_hat: Tensor) -> None: ...
    def compute(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class Found:
    """Sums of the passes over held-out text."""

    sums: ReconstructionSums
    behavior: BehaviorSums
    measures: Sequence[Measure]

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return all metrics in SAEBench's groups."""
        groups = {**self.behavior.metrics(), **self.sums.metrics()}
        for measure in self.measures:
            values = measure.compute()
            for metric in measure.metrics:
                groups.setdefault(metric.groups[-1], {})[metric.name] = values[metric.name]
        groups["token_stats"] = {
            "total_tokens_eval_reconstruction": self.behavior.tokens,
            "total_tokens_eval_sparsity_variance": self.sums.tokens,
        }
        return groups

    def intervals(self, seed: int) -> dict[str, tuple[float, float]]:
        """Return 95 % bootstrap intervals over sequences, by metric."""
        return self.sums.intervals(seed) | self.behavior.intervals(seed)


@component("eval")
@component("eval.core")
@dataclass(frozen=True)
class CoreEvaluation:
    """Options of the evaluation.

    Attributes:
        lm_batch_size: sequences in one forward pass.
        n_reconstruction_sequences: sequences on which the language model is run with the SAE in it.
        n_sparsity_sequences: sequences on which sparsity and variance are measured.
        seed: order of the held-out documents.

    Raises:
        InvalidOption: an option is out of range.
    """

    lm_batch_size: int = 32
    n_reconstruction_sequences: int = 128
    n_sparsity_sequences: int = 1024
    seed: int = 0

    name: ClassVar[str] = "core"
    needs_held_out_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        keep_int(self, "lm_batch_size", 1)
        keep_int(self, "n_reconstruction_sequences", 1)
        keep_int(self, "n_sparsity_sequences", 1)
        keep_int(self, "seed", 0)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics that say something about the SAE."""
        of_measures = [metric for cls in components("measure") for metric in cls.metrics]
        every = (*behavior.METRICS, *reconstruction.METRICS, *of_measures)
        return tuple(metric for metric in every if metric.compared)

    @property
    def batches(self) -> Mapping[str, int]:
        """Sequences in one forward pass, by the option that says how many."""
        return {"lm_batch_size": self.lm_batch_size}

    def check(self, model: LanguageModel, sae: SparseAutoencoder, text: TextSource) -> None:
        """Any model and SAE will do."""

    def run(self, subject: Subject) -> Outcome:
        """Measure, write `core.json`, and give it back as the core section."""
        options = asdict(self)
        section = subject.files.find(self.name, options, schemas.CoreScores)
        if section is None:
            sae, model, source = subject.sae, subject.model, subject.source
            found = self._measure(sae, model, source, subject.text)
            section = {
                **core_section(sae, model, source, options, found.metrics()),
                "intervals": found.intervals(self.seed),
            }
            subject.files.write(self.name, options, section)
        return Outcome({CORE_SECTION: section})

    def measure(
        self,
        sae: SparseAutoencoder,
        model: LanguageModel,
        source: ActivationSource,
        text: TextSource,
    ) -> dict[str, dict[str, float]]:
        """All metrics, grouped as SAEBench groups them.

        Args:
            sae: takes activations of `model` as they are (input scale folded in).
            model: the language model and the place in it.
            source: sequence length and BOS policy, the same as in training.
            text: its held-out documents are used.
        """
        return self._measure(sae, model, source, text).metrics()

    @torch.no_grad()
    def _measure(
        self,
        sae: SparseAutoencoder,
        model: LanguageModel,
        source: ActivationSource,
        text: TextSource,
    ) -> Found:
        sums = ReconstructionSums(sae.d_in, model.device)
        measures: list[Measure] = [cls(sae, model.device) for cls in components("measure")]
        sequences = source.sequences(text, model, "held_out", self.seed)
        for tokens in in_batches(sequences, self.n_sparsity_sequences, self.lm_batch_size):
            ordinary = is_text(tokens, model.tokenizer).to(model.device)
            x = model.activations(tokens)[ordinary].to(sae.W_dec.dtype)
            latents = sae.encode(x)
            x_hat = sae.decode(latents)
            sums.add(x, latents, x_hat, ordinary)
            for measure in measures:
                measure.add(x, latents, x_hat)
        behavior = BehaviorSums()
        sequences = source.sequences(text, model, "held_out", self.seed)
        for tokens in in_batches(sequences, self.n_reconstruction_sequences, self.lm_batch_size):
            behavior.add(tokens, model, sae, is_text(tokens, model.tokenizer))
        if not sums.tokens or not behavior.tokens:
            raise RunError(f"there is no held-out text for the evaluation: {text.held_out_advice}")
        if not sums.varies:
            log.warning("the held-out activations are all equal: explained variance is undefined")
        return Found(sums, behavior, measures)


def core_section(
    sae: SparseAutoencoder,
    model: LanguageModel,
    source: ActivationSource,
    options: dict[str, Any],
    metrics: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """The metrics with the names that SAEBench puts around them."""
    name = f"{model.name}_layer_{model.layer}_sae"
    return {
        "unique_id": f"{name}_{sae.trained_as}",
        "sae_set": name,
        "sae_id": sae.trained_as,
        "eval_cfg": {
            "model_name": model.name,
            "llm_dtype": model.dtype,
            "context_size": source.context_size,
            "exclude_special_tokens_from_reconstruction": True,
            **options,
        },
        "metrics": metrics,
    }


def in_batches(
    sequences: TokenSequences, limit: int, size: int
) -> Iterator[Int[Tensor, "sequences context"]]:
    """Up to `limit` sequences in batches; the text may end earlier."""
    limited = itertools.islice(sequences, limit)
    while batch := list(itertools.islice(limited, size)):
        yield torch.stack(batch)
