"""Evaluation on held-out rows alone: reconstruction, sparsity, dead latents, stability of pairs.

It needs no language model, so it does for activations of any origin. Its section and the names in
it are those of the core evaluation, which adds what a language model loses.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from temporal_sae.activations import ActivationSource, Rows
from temporal_sae.activations.source import ROWS
from temporal_sae.errors import RunError, keep_int
from temporal_sae.eval import reconstruction
from temporal_sae.eval.memory import of_batches
from temporal_sae.eval.reconstruction import ReconstructionSums
from temporal_sae.eval.together import SharedEvaluation, Together
from temporal_sae.latents import Latents
from temporal_sae.machine import Planned
from temporal_sae.metrics import CORE_SECTION, Metric, declare
from temporal_sae.registry import component, components
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.tracker import CoActivationTracker
from temporal_sae.tracker.stability import StabilityMonitor

log = logging.getLogger(__name__)

PAIRS = "held_out_pairs"
of_pairs = partial(Metric, sections=(CORE_SECTION,), groups=("metrics", PAIRS))
METRICS = declare(
    of_pairs(name="pair_stability"),
    of_pairs(name="pairs_beyond_3_sigma"),
    of_pairs(name="fano_factor_median"),
)


class Measure(Protocol):
    """A measure on held-out rows, made for each SAE from its (sae, device).

    A class announced by `@component("measure")` is run by the core evaluation and by this one.
    `metrics` are its declarations, whose `groups` are "metrics" and a group of `eval/core.json`.
    """

    metrics: tuple[Metric, ...]

    def add(self, x: Tensor, latents: Latents, x_hat: Tensor) -> None: ...
    def compute(self) -> dict[str, float]: ...


def metrics_of_rows() -> tuple[Metric, ...]:
    """Return the declarations of all that is measured on rows alone and says something."""
    of_measures = [metric for cls in components("measure") for metric in cls.metrics]
    return tuple(metric for metric in (*reconstruction.METRICS, *of_measures) if metric.compared)


class PairStability:
    """Stability of pairs of latents in stream order, by a tracker of its own.

    Args:
        sae: whose latents are followed.
        window_size: tokens in a window.
        device: of the rows.
    """

    def __init__(self, sae: SparseAutoencoder, window_size: int, device: torch.device) -> None:
        self._sae, self._window_size = sae, window_size
        self._tracker = CoActivationTracker(sae.d_sae, window_size, storage="sparse", device=device)
        self._monitor = StabilityMonitor()

    def add(self, latents: Latents) -> None:
        """Take in the latents of the next rows."""
        indices = latents.largest(self._sae.tracked_latents).active_indices()
        for part in indices.split(self._window_size):
            self._tracker.update(part)
            self._monitor.observe(self._tracker, self._sae.W_dec)

    def compute(self) -> dict[str, float]:
        """Return each metric by its name, as far as the rows fill windows."""
        found = self._monitor.summary(self._tracker)
        values = {metric.name: found.get(metric.name, math.nan) for metric in METRICS}
        return {name: value for name, value in values.items() if math.isfinite(value)}


class OnRows:
    """The sums of one SAE on held-out rows.

    Args:
        sae: takes rows as the source gives them (input scale folded in).
        source: of the rows.
        pairs: takes in the latents as well.
    """

    def __init__(
        self, sae: SparseAutoencoder, source: ActivationSource, pairs: PairStability | None = None
    ) -> None:
        self.sae, self.source, self.pairs = sae, source, pairs
        self.sums = ReconstructionSums(sae.d_in, source.device)
        self.measures: list[Measure] = [cls(sae, source.device) for cls in components("measure")]

    def add(self, rows: Rows) -> Latents:
        """Encode and decode a batch; return its latents."""
        x = rows.x.to(self.sae.W_dec.dtype)
        latents = self.sae.encode(x)
        x_hat = self.sae.decode(latents)
        self.sums.add(x, latents, x_hat, rows.sequences)
        for measure in self.measures:
            measure.add(x, latents, x_hat)
        if self.pairs is not None:
            self.pairs.add(latents)
        return latents

    def end(self) -> None:
        """Judge the rows once all have come.

        Raises:
            RunError: there were none.
        """
        if not self.sums.tokens:
            raise RunError(f"there are no rows for the evaluation: {self.source.held_out_advice}")
        if not self.sums.varies:
            log.warning("the held-out activations are all equal: explained variance is undefined")

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return all metrics in SAEBench's groups."""
        groups = self.sums.metrics()
        for measure in self.measures:
            values = measure.compute()
            for metric in measure.metrics:
                groups.setdefault(metric.groups[-1], {})[metric.name] = values[metric.name]
        return groups


@component("eval")
@dataclass(frozen=True)
class ActivationsEvaluation(SharedEvaluation):
    """Options of the evaluation.

    Attributes:
        n_sequences: held-out sequences that are read.
        batch_sequences: sequences at once.
        window_size: rows in a window, in which pairs of latents are counted.
        seed: order of the sequences.

    Raises:
        InvalidOption: an option is out of range.
    """

    n_sequences: int = 1024
    batch_sequences: int = 32
    window_size: int = 1000
    seed: int = 0

    name: ClassVar[str] = "activations"
    needs: ClassVar[frozenset[str]] = frozenset({ROWS})

    def __post_init__(self) -> None:
        for option in ("n_sequences", "batch_sequences", "window_size"):
            keep_int(self, option, 1)
        keep_int(self, "seed", 0)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those on rows alone, and the stability of pairs."""
        return (*metrics_of_rows(), *METRICS)

    def planned_bytes(self, source: ActivationSource, sae: SparseAutoencoder) -> dict[str, Planned]:
        """Return the memory of a batch."""
        batches = {"batch_sequences": self.batch_sequences}
        return of_batches(batches, source.sequence_rows, source, sae)

    @torch.no_grad()
    def measure_together(
        self, saes: Sequence[SparseAutoencoder], source: ActivationSource
    ) -> list[dict[str, Any] | Exception]:
        """Return the section of each SAE, or the error that it has raised."""

        def begin(sae: SparseAutoencoder) -> OnRows:
            return OnRows(sae, source, PairStability(sae, self.window_size, source.device))

        together = Together(begin, saes)
        together.take(
            source.held_out(self.n_sequences, self.batch_sequences, self.seed), OnRows.add
        )
        together.each(OnRows.end)
        return together.answers(self._section)

    def _section(self, found: OnRows) -> dict[str, Any]:
        tokens = {"total_tokens_eval_sparsity_variance": found.sums.tokens}
        stability = {PAIRS: found.pairs.compute()} if found.pairs is not None else {}
        return {
            "eval_cfg": asdict(self),
            "metrics": {**found.metrics(), **stability, "token_stats": tokens},
            "intervals": found.sums.intervals(self.seed),
        }
