"""Several SAEs that are evaluated in the same passes over held-out rows.

What does not depend on the SAE is computed once: a batch is read, each SAE takes it, then comes the
next batch. An SAE that raises takes no more of them, and the others go on.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from temporal_sae import schemas
from temporal_sae.activations import ActivationSource
from temporal_sae.eval.subject import Evaluation, Outcome, Subject, attempt, given
from temporal_sae.metrics import CORE_SECTION
from temporal_sae.sae import SparseAutoencoder

T = TypeVar("T")
B = TypeVar("B")
R = TypeVar("R")


class Together(Generic[T]):
    """Members that take the same steps, each until it raises.

    Args:
        make: makes a member of an SAE.
        saes: one for each member.
    """

    def __init__(
        self, make: Callable[[SparseAutoencoder], T], saes: Iterable[SparseAutoencoder]
    ) -> None:
        self._members = [attempt(partial(make, sae)) for sae in saes]

    def each(self, step: Callable[..., object], *args: Any) -> None:
        """Let each member that has not raised take a step."""
        for number, answer in enumerate(self.answers(step, *args)):
            if isinstance(answer, Exception):
                self._members[number] = answer

    def take(self, batches: Iterable[B], step: Callable[[T, B], object]) -> None:
        """Let each member take each batch, as long as there is one that has not raised."""
        for batch in batches:
            self.each(step, batch)
            if all(isinstance(member, Exception) for member in self._members):
                return
            del batch  # before the next one is made, which may be as large

    def answers(self, ask: Callable[..., R], *args: Any) -> list[R | Exception]:
        """Return what each member says, or the error that it has raised."""
        return [
            member if isinstance(member, Exception) else attempt(partial(ask, member, *args))
            for member in self._members
        ]


@dataclass(frozen=True)
class SharedEvaluation(Evaluation):
    """An evaluation of held-out rows that gives one section, for any number of SAEs at once.

    A class that inherits from it has to write `measure_together`.
    """

    section: ClassVar[str] = CORE_SECTION
    schema: ClassVar[Any] = schemas.CoreScores

    @abstractmethod
    def measure_together(
        self, saes: Sequence[SparseAutoencoder], source: ActivationSource
    ) -> list[dict[str, Any] | Exception]:
        """Return the section of each SAE, or the error that it has raised.

        Args:
            saes: take rows of the source as they are (input scale folded in).
            source: has the rows.

        Raises:
            RunError: there are no rows.
        """

    def sections(self, sae: SparseAutoencoder, source: ActivationSource) -> dict[str, Any]:
        """Measure without writing anything; return the section by its name."""
        return {self.section: given(self.measure_together([sae], source)[0])}

    def run(self, subject: Subject) -> Outcome:
        """Measure, write the file that is called as the evaluation, and return the section."""
        return given(self.run_together([subject])[0])

    def run_together(self, subjects: Sequence[Subject]) -> list[Outcome | Exception]:
        """Evaluate SAEs with the same text, model and options, which may read several places.

        Those of one place share all passes that do not depend on the SAE.
        """
        found = [attempt(partial(self._find, subject)) for subject in subjects]
        for numbers in same_places(
            [n for n, section in enumerate(found) if section is None], subjects
        ):
            measured = self._measure_and_write([subjects[n] for n in numbers])
            for number, section in zip(numbers, measured, strict=True):
                found[number] = section
        return [
            section if isinstance(section, Exception) else Outcome({self.section: section})
            for section in found
        ]

    def _find(self, subject: Subject) -> dict[str, Any] | None:
        return subject.files.find(self.name, asdict(self), self.schema)

    def _measure_and_write(
        self, subjects: Sequence[Subject]
    ) -> Sequence[dict[str, Any] | Exception]:
        saes, source = [subject.sae for subject in subjects], subjects[0].source
        sections = attempt(partial(self.measure_together, saes, source))
        if isinstance(sections, Exception):
            return [sections] * len(subjects)

        def write(subject: Subject, section: dict[str, Any] | Exception) -> dict[str, Any]:
            subject.files.write(self.name, asdict(self), given(section))
            return given(section)

        return [attempt(partial(write, *pair)) for pair in zip(subjects, sections, strict=True)]


def same_places(numbers: Iterable[int], subjects: Sequence[Subject]) -> Iterator[list[int]]:
    """Yield the numbers of the subjects that read the same place, place after place."""
    by_place: dict[Any, list[int]] = {}
    for number in numbers:
        place = subjects[number].source.metadata()["hook_name"]
        by_place.setdefault(place, []).append(number)
    yield from by_place.values()
