"""The evaluation of `eval=none`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from temporal_sae.activations import LanguageModel
from temporal_sae.data import TextSource
from temporal_sae.eval.subject import Outcome, Subject
from temporal_sae.metrics import Metric
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder


@component("eval")
class NoEvaluation:
    """Measures nothing and needs no held-out text."""

    name: ClassVar[str] = "none"
    needs_held_out_text: ClassVar[bool] = False
    metrics: ClassVar[tuple[Metric, ...]] = ()
    batches: ClassVar[Mapping[str, int]] = {}

    def check(self, model: LanguageModel, sae: SparseAutoencoder, text: TextSource) -> None:
        """Nothing is needed."""

    def run(self, subject: Subject) -> Outcome:
        """No sections."""
        return Outcome()
