"""The evaluation of `eval=auto`: all that activations allow, whatever their origin."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from temporal_sae.activations import ActivationSource
from temporal_sae.activations.source import TRUTH
from temporal_sae.eval.core import CoreEvaluation
from temporal_sae.eval.ground_truth import GroundTruthEvaluation
from temporal_sae.eval.rows import ActivationsEvaluation
from temporal_sae.eval.subject import Evaluation, Outcome, Subject, given
from temporal_sae.eval.together import SharedEvaluation
from temporal_sae.machine import Planned
from temporal_sae.metrics import Metric
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder

log = logging.getLogger(__name__)


@component("eval")
@dataclass(frozen=True)
class AutoEvaluation(CoreEvaluation):
    """The core evaluation where there is a language model, otherwise that on rows alone.

    That on known features is added where there are any. Its options are those of the core
    evaluation. What the source does not allow is left out, and said with the reason.
    """

    name: ClassVar[str] = "auto"
    needs: ClassVar[frozenset[str]] = frozenset()

    def candidates(self) -> tuple[Sequence[SharedEvaluation], ...]:
        """Evaluations, those that stand for each other together, the first choice first."""
        n, at_once, seed = self.n_sparsity_sequences, self.lm_batch_size, self.seed
        core = CoreEvaluation(at_once, self.n_reconstruction_sequences, n, seed)
        rows = ActivationsEvaluation(n, at_once, seed=seed)
        return (core, rows), (GroundTruthEvaluation(n, at_once, seed),)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of all candidates."""
        return metrics_of([each for among in self.candidates() for each in among])

    def for_source(self, source: ActivationSource) -> Evaluation:
        """Return those of the candidates that the source allows."""
        return Several(self.chosen(source))

    def chosen(self, source: ActivationSource) -> tuple[SharedEvaluation, ...]:
        """Return those of the candidates that the source allows; tell what is left out, and why."""
        chosen = []
        for among in self.candidates():
            for evaluation in among:
                reasons = [source.why_not(need) for need in sorted(evaluation.needs)]
                reason = next(filter(None, reasons), None)
                if reason is None:
                    chosen.append(evaluation)
                    break
                if TRUTH not in evaluation.needs or source.truth is not None:
                    log.info("eval=auto leaves out eval=%s: %s", evaluation.name, reason)
        return tuple(chosen)


@dataclass(frozen=True)
class Several(Evaluation):
    """Evaluations one after the other."""

    parts: Sequence[Evaluation]

    name: ClassVar[str] = "auto"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of all."""
        return metrics_of(self.parts)

    def planned_bytes(self, source: ActivationSource, sae: SparseAutoencoder) -> dict[str, Planned]:
        """Return the most that one of them takes, by purpose."""
        most: dict[str, Planned] = {}
        for part in self.parts:
            for name, item in part.planned_bytes(source, sae).items():
                most[name] = max(item, most.get(name, item), key=lambda one: one.n_bytes)
        return most

    def check(self, source: ActivationSource, sae: SparseAutoencoder) -> None:
        """Ask each of them."""
        for part in self.parts:
            part.check(source, sae)

    def run(self, subject: Subject) -> Outcome:
        """Run each of them."""
        return given(self.run_together([subject])[0])

    def run_together(self, subjects: Sequence[Subject]) -> list[Outcome | Exception]:
        """Run each of them for all; an SAE for which one fails is left out by those that follow."""
        outcomes: list[Outcome | Exception] = [Outcome() for _ in subjects]
        for part in self.parts:
            going = [n for n, before in enumerate(outcomes) if isinstance(before, Outcome)]
            found = part.run_together([subjects[n] for n in going])
            for number, outcome in zip(going, found, strict=True):
                outcomes[number] = joined(outcomes[number], outcome)
        return outcomes


def metrics_of(parts: Sequence[Evaluation]) -> tuple[Metric, ...]:
    """Return the metrics of some evaluations; what several of them measure is one metric."""
    return tuple(dict.fromkeys(metric for part in parts for metric in part.metrics))


def joined(first: Outcome | Exception, then: Outcome | Exception) -> Outcome | Exception:
    """Return both outcomes as one, or the first error."""
    if isinstance(first, Exception):
        return first
    if isinstance(then, Exception):
        return then
    return Outcome(first.sections | then.sections, first.failures | then.failures)
