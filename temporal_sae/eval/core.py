"""Core evaluation on held-out text: how well the SAE reconstructs, and what the model loses by it.

Names and definitions are those of SAEBench's core evaluation, with two deliberate exceptions:
`explained_variance` is the textbook 1 - Σ‖x - x̂‖² / Σ‖x - mean‖² over all evaluated tokens, and
`mse` is a mean over all of them, whatever the batch. `explained_variance_legacy` is SAEBench's
older per-batch value, which published tables hold. BOS and the end-of-text tokens between documents
are left as they are and not counted, whatever training did with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae.activations import ActivationSource, Harvest, LanguageModel
from temporal_sae.activations.rows import TOKEN
from temporal_sae.activations.source import LANGUAGE_MODEL, ROWS, TEXT
from temporal_sae.data import is_text
from temporal_sae.errors import keep_int
from temporal_sae.eval import behavior
from temporal_sae.eval.behavior import BehaviorSums, PlainPredictions
from temporal_sae.eval.memory import of_batches
from temporal_sae.eval.rows import OnRows, metrics_of_rows
from temporal_sae.eval.together import SharedEvaluation, Together
from temporal_sae.machine import Planned
from temporal_sae.metrics import CORE_SECTION, Metric
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder


@component("eval")
@component("eval.core")
@dataclass(frozen=True)
class CoreEvaluation(SharedEvaluation):
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
    needs: ClassVar[frozenset[str]] = frozenset({ROWS, LANGUAGE_MODEL, TEXT})

    def __post_init__(self) -> None:
        keep_int(self, "lm_batch_size", 1)
        keep_int(self, "n_reconstruction_sequences", 1)
        keep_int(self, "n_sparsity_sequences", 1)
        keep_int(self, "seed", 0)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics that say something about the SAE."""
        of_model = tuple(metric for metric in behavior.METRICS if metric.compared)
        return (*of_model, *metrics_of_rows())

    @property
    def batches(self) -> Mapping[str, int]:
        """Sequences in one forward pass, by the option that says how many."""
        return {"lm_batch_size": self.lm_batch_size}

    def planned_bytes(self, source: ActivationSource, sae: SparseAutoencoder) -> dict[str, Planned]:
        """Return the memory of a forward pass."""
        return of_batches(self.batches, source.sequence_rows, source, sae)

    def measure(self, sae: SparseAutoencoder, source: Harvest) -> dict[str, dict[str, float]]:
        """Return all metrics, grouped as SAEBench groups them.

        Args:
            sae: takes activations of the language model as they are (input scale folded in).
            source: language model and text, and the sequence length and BOS policy of training.
        """
        metrics: dict[str, dict[str, float]] = self.sections(sae, source)[CORE_SECTION]["metrics"]
        return metrics

    @torch.no_grad()
    def measure_together(
        self, saes: Sequence[SparseAutoencoder], source: ActivationSource
    ) -> list[dict[str, Any] | Exception]:
        """Return the section of each SAE, or the error that it has raised."""
        harvest, at_once = cast(Harvest, source), self.lm_batch_size
        together = Together(lambda sae: _Scores(OnRows(sae, source), BehaviorSums(sae)), saes)
        rows = source.held_out(self.n_sparsity_sequences, at_once, self.seed)
        together.take(rows, lambda scores, batch: scores.rows.add(batch))
        together.each(lambda scores: scores.rows.end())
        sequences = harvest.held_out_rows(self.seed)
        plain = plain_predictions(
            harvest.language_model, in_batches(sequences, self.n_reconstruction_sequences, at_once)
        )
        together.take(plain, lambda scores, batch: scores.behavior.add(batch))
        return together.answers(partial(self._section, harvest))

    def _section(self, source: Harvest, found: _Scores) -> dict[str, Any]:
        of_rows, of_model = found.rows.sums, found.behavior
        token_stats = {
            "total_tokens_eval_reconstruction": of_model.tokens,
            "total_tokens_eval_sparsity_variance": of_rows.tokens,
        }
        return {
            **core_section(found.rows.sae, source, asdict(self)),
            "metrics": {**of_model.metrics(), **found.rows.metrics(), "token_stats": token_stats},
            "intervals": of_rows.intervals(self.seed) | of_model.intervals(self.seed),
        }


class _Scores(NamedTuple):
    """The sums of one SAE."""

    rows: OnRows
    behavior: BehaviorSums


def plain_predictions(
    model: LanguageModel, batches: Iterable[Int[Tensor, "sequences context 4"]]
) -> Iterator[PlainPredictions]:
    """Yield the predictions on each batch."""
    for rows in batches:
        yield PlainPredictions(model, rows[..., TOKEN].long(), is_text(rows))


def core_section(
    sae: SparseAutoencoder, source: Harvest, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the names that SAEBench puts around the metrics."""
    model = source.language_model
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
    }


def in_batches(sequences: Iterable[Tensor], limit: int, size: int) -> Iterator[Tensor]:
    """Up to `limit` sequences in batches, [sequences, context, …]; there may be fewer."""
    limited = itertools.islice(sequences, limit)
    while batch := list(itertools.islice(limited, size)):
        yield torch.stack(batch)
