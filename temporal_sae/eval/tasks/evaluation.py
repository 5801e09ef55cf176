"""The evaluation of `eval=tasks`: SAEBench's questions on labelled data that every machine has."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from temporal_sae import schemas
from temporal_sae.activations import ActivationSource
from temporal_sae.errors import InvalidOption, RunError, keep_int
from temporal_sae.eval.core import CoreEvaluation
from temporal_sae.eval.memory import of_batches
from temporal_sae.eval.statistics import Interval
from temporal_sae.eval.subject import Evaluation, Outcome, Subject
from temporal_sae.eval.tasks.absorption import Absorption
from temporal_sae.eval.tasks.activations import CellActivations
from temporal_sae.eval.tasks.downstream import Downstream
from temporal_sae.eval.tasks.scr import SpuriousCorrelationRemoval
from temporal_sae.eval.tasks.snippets import SnippetOptions, standard_library
from temporal_sae.eval.tasks.sparse_probing import SparseProbing
from temporal_sae.eval.tasks.tpp import TargetedProbePerturbation
from temporal_sae.machine import Planned
from temporal_sae.metrics import TASKS_SECTION, Metric, of_tasks
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder

KEPT_RESAMPLES = 200  # give a deviation to 5 %
TASKS = ("sparse_probing", "scr", "tpp", "absorption", "downstream")


@component("eval")
@dataclass(frozen=True)
class TasksEvaluation(Evaluation):
    """The tasks on labelled data and their options.

    Attributes:
        tasks: which of TASKS.
        batch_texts: texts in one forward pass.
        snippets: what labelled data there is.
        sparse_probing, scr, tpp, absorption, downstream: options of each task.
        core: options of the core evaluation, which is done first.

    Raises:
        InvalidOption: an unknown task.
    """

    tasks: Sequence[str] = field(default=TASKS)
    batch_texts: int = 25
    snippets: SnippetOptions = field(default_factory=SnippetOptions)
    sparse_probing: SparseProbing = field(default_factory=SparseProbing)
    scr: SpuriousCorrelationRemoval = field(default_factory=SpuriousCorrelationRemoval)
    tpp: TargetedProbePerturbation = field(default_factory=TargetedProbePerturbation)
    absorption: Absorption = field(default_factory=Absorption)
    downstream: Downstream = field(default_factory=Downstream)
    core: CoreEvaluation = field(default_factory=CoreEvaluation)

    name: ClassVar[str] = "tasks"
    needs: ClassVar[frozenset[str]] = CoreEvaluation.needs

    def __post_init__(self) -> None:
        listed = isinstance(self.tasks, Sequence) and not isinstance(self.tasks, str)
        if not listed or not self.tasks or not all(task in TASKS for task in self.tasks):
            raise InvalidOption("tasks", self.tasks, f"a list of some of {', '.join(TASKS)}")
        keep_int(self, "batch_texts", 1)
        for part in fields(self):
            kind, given = part.default_factory, getattr(self, part.name)
            if isinstance(kind, type) and not isinstance(given, kind):
                raise InvalidOption(part.name, given, f"the options of {kind.__name__}")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The core metrics and the scores of the tasks that are done."""
        names = [name for task in self.tasks for name in getattr(self, task).metric_names]
        return (*self.core.metrics, *(of_tasks(name=name) for name in names))

    @property
    def batches(self) -> Mapping[str, int]:
        """Sequences or texts in one forward pass, by the option that says how many."""
        return {
            **{f"core.{option}": n for option, n in self.core.batches.items()},
            "batch_texts": self.batch_texts,
            "downstream.batch_texts": self.downstream.batch_texts,
        }

    def planned_bytes(self, source: ActivationSource, sae: SparseAutoencoder) -> dict[str, Planned]:
        """Return the memory of the largest forward pass."""
        return of_batches(self.batches, source.sequence_rows, source, sae)

    def check(self, source: ActivationSource, sae: SparseAutoencoder) -> None:
        """Refuse what there are too few snippets, latents or words for.

        Raises:
            InvalidOption, RunError: the option carries the task in front.
        """
        for task in self.tasks:
            own = getattr(self, task)
            try:
                if own.on_snippets:
                    own.check(standard_library(self.snippets), sae.d_sae)
                else:
                    own.check(source, sae)
            except InvalidOption as error:
                raise error.within(task) from None

    def run_together(self, subjects: Sequence[Subject]) -> list[Outcome | Exception]:
        """Do the core evaluation for all at once, then the tasks for one after the other."""
        self.core.run_together(subjects)  # `run` finds what it has written
        return super().run_together(subjects)

    def run(self, subject: Subject) -> Outcome:
        """Return the core evaluation, then each task; one that fails does not stop the others."""
        outcome = Outcome()
        try:
            outcome.sections |= self.core.run(subject).sections
        except (InvalidOption, RunError) as error:
            outcome.failures[self.core.name] = str(error)
        activations: CellActivations | None = None

        def pooled() -> CellActivations:
            nonlocal activations
            if activations is None:
                activations = CellActivations(
                    standard_library(self.snippets),
                    subject.sae,
                    subject.harvest,
                    self.batch_texts,
                )
            return activations

        results = {}
        for task in self.tasks:
            try:
                results[task] = self._result(task, subject, pooled)
            except (InvalidOption, RunError) as error:
                outcome.failures[f"{self.name}_{task}"] = str(error)
        if results:
            outcome.sections[TASKS_SECTION] = tasks_section(results)
        return outcome

    def _result(
        self, task: str, subject: Subject, pooled: Callable[[], CellActivations]
    ) -> dict[str, Any]:
        """Return the content of the task's file, measured or found."""
        own, name = getattr(self, task), f"{self.name}_{task}"
        options = self._options(task)
        result = subject.files.find(name, options, schemas.TaskRecord)
        if result is not None:
            return result
        began = time.monotonic()
        found = own.run(pooled() if own.on_snippets else subject)
        drawn = resampled_scores(found["intervals"])
        result = {**found, "options": options, "resampled": drawn}
        subject.files.write(name, options, result)
        subject.say(summary_line(name, own.headline, found, time.monotonic() - began))
        return result

    def _options(self, task: str) -> dict[str, Any]:
        """Return all that the task's result depends on beside its subject."""
        own = asdict(getattr(self, task))
        if not getattr(self, task).on_snippets:
            return own
        return {
            **own,
            "activations_batch_texts": self.batch_texts,
            "snippets": asdict(self.snippets),
            "python": platform.python_version(),  # whose sources the snippets are
        }


def tasks_section(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the section of `results.json`, with the scores last, to be found by name."""
    section: dict[str, Any] = {
        "options": {task: result["options"] for task, result in results.items()},
        "details": {task: result["details"] for task, result in results.items()},
    }
    for part in ("intervals", "scores"):
        section[part] = {k: v for result in results.values() for k, v in result[part].items()}
    return section


def resampled_scores(intervals: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Return the scores in the first resamples of the texts, for comparisons of several SAEs."""
    return {
        name: {
            "units": interval.n_units,
            "values": [float(f"{value:.4g}") for value in interval.drawn[:KEPT_RESAMPLES]],
        }
        for name, interval in intervals.items()
        if isinstance(interval, Interval) and len(interval.drawn)
    }


def summary_line(name: str, headline: str, found: dict[str, Any], seconds: float) -> str:
    """Return a score of the task with its interval, and how long the task took."""
    scores = found["scores"]
    shown = headline if headline in scores else next(iter(scores))
    low, high = found["intervals"][shown]
    return f"{name}: {shown} {scores[shown]:.3f} [{low:.3f}, {high:.3f}] ({seconds:.1f} s)"
