"""Arguments and results of evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from temporal_sae.activations import ActivationSource, LanguageModel
from temporal_sae.data import TextSource
from temporal_sae.eval.files import EvaluationFiles
from temporal_sae.metrics import Metric
from temporal_sae.sae import SparseAutoencoder


@dataclass(frozen=True)
class Subject:
    """A trained SAE with everything it is judged by.

    Attributes:
        sae: takes activations of `model` as they are (input scale folded in).
        sae_folder: where it is saved, for what runs in another process.
        model: the language model and the place in it.
        source: sequence length and BOS policy, the same as in training.
        text: its held-out documents are used.
        files: receives a file per evaluation, and remembers what is done already.
        say: is told, in one line, what begins and what has ended.
    """

    sae: SparseAutoencoder
    sae_folder: Path
    model: LanguageModel
    source: ActivationSource
    text: TextSource
    files: EvaluationFiles
    say: Callable[[str], None] = print


@dataclass
class Outcome:
    """Sections and failures of an evaluation.

    Attributes:
        sections: of `results.json`, by name.
        failures: the reason, in one line, of each evaluation that failed, by name.
    """

    sections: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@runtime_checkable
class Evaluation(Protocol):
    """An option of `eval=`."""

    name: ClassVar[str]
    needs_held_out_text: ClassVar[bool]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that `objective` may name; no two have one name."""
        ...

    @property
    def batches(self) -> Mapping[str, int]:
        """Sequences in a forward pass of the language model, by the option that says how many.

        For the memory budget; those where it runs elsewhere are left out.
        """
        ...

    def check(self, model: LanguageModel, sae: SparseAutoencoder, text: TextSource) -> None:
        """Refuse, before any work is done, what could not be evaluated.

        Args:
            model: the language model.
            sae: the SAE that will be trained; it may have shapes only.
            text: where the text comes from.

        Raises:
            InvalidOption, RunError: something is missing or does not fit.
        """
        ...

    def run(self, subject: Subject) -> Outcome:
        """Evaluate, skipping what `subject.files` holds for the same SAE and options."""
        ...
