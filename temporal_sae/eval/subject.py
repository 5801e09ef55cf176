"""Arguments and results of evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from traceback import clear_frames
from typing import Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

from temporal_sae import signals
from temporal_sae.activations import ActivationSource, Harvest, LanguageModel
from temporal_sae.eval.files import EvaluationFiles
from temporal_sae.machine import Planned
from temporal_sae.metrics import Metric
from temporal_sae.sae import SparseAutoencoder

R = TypeVar("R")


@dataclass(frozen=True)
class Subject:
    """A trained SAE with everything it is judged by.

    Attributes:
        sae: takes activations of `model` as they are (input scale folded in).
        sae_folder: where it is saved, for what runs in another process.
        source: its held-out rows are used; what else there is depends on the source.
        files: receives a file per evaluation, and remembers what is done already.
        say: is told, in one line, what begins and what has ended.
    """

    sae: SparseAutoencoder
    sae_folder: Path
    source: ActivationSource
    files: EvaluationFiles
    say: Callable[[str], None] = print

    @property
    def harvest(self) -> Harvest:
        """The source of an evaluation that needs a language model and text."""
        return cast(Harvest, self.source)

    @property
    def model(self) -> LanguageModel:
        """The language model of such a source, and the place in it."""
        return self.harvest.language_model


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
    """An option of `eval=`.

    A class that inherits from it has to have a `name`, and to write `run`. `needs` are the names in
    `activations.source` of all that a source must give.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:  # that of a protocol would seem to take any option
        """Take no options, where a class does not say otherwise."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that `objective` may name; no two have one name."""
        return ()

    def for_source(self, source: ActivationSource) -> Evaluation:
        """Return as much of the evaluation as a source allows; most want all or nothing."""
        return self

    def planned_bytes(self, source: ActivationSource, sae: SparseAutoencoder) -> dict[str, Planned]:
        """Return the memory it takes in this process, by purpose."""
        return {}

    def from_hub(self, model_name: str) -> list[tuple[str, str]]:
        """Return (`dataset` or `model`, name) of what is read from the hub beside the model.

        Args:
            model_name: of the language model.
        """
        return []

    def check(self, source: ActivationSource, sae: SparseAutoencoder) -> None:
        """Refuse, before any work is done, what could not be evaluated.

        Args:
            source: it is open, and gives what the evaluation needs.
            sae: the SAE that will be trained; it may have shapes only.

        Raises:
            InvalidOption, RunError: something is missing or does not fit.
        """
        return

    def run(self, subject: Subject) -> Outcome:
        """Evaluate, skipping what `subject.files` holds for the same SAE and options."""
        ...

    def run_together(self, subjects: Sequence[Subject]) -> list[Outcome | Exception]:
        """Evaluate several SAEs.

        Args:
            subjects: their sources differ in the place that is read alone.

        Returns:
            The outcome of each, or the error that keeps it from having one.
        """
        return [attempt(partial(self.run, subject)) for subject in subjects]


def attempt(action: Callable[[], R]) -> R | Exception:
    """Return what an action returns, or the error that it raises."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001 - `given` raises it
        signals.obey()  # what a swallowed signal leaves half done may fail in any way
        clear_frames(error.__traceback__)  # the others need the room of the tensors in them
        return error


def given(answer: R | Exception) -> R:
    """Return the answer, or raise the error that stands in its place."""
    if isinstance(answer, Exception):
        raise answer
    return answer
