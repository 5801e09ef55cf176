"""The evaluation of `eval=none`."""

from __future__ import annotations

from typing import ClassVar

from temporal_sae.eval.subject import Evaluation, Outcome, Subject
from temporal_sae.registry import component


@component("eval")
class NoEvaluation(Evaluation):
    """Measures nothing and needs nothing."""

    name: ClassVar[str] = "none"

    def run(self, subject: Subject) -> Outcome:
        """No sections."""
        return Outcome()
