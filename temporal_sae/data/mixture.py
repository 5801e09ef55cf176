"""Several sources of text as one, in proportions that a person chooses."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from temporal_sae.data.documents import Document, document_of
from temporal_sae.data.sources import CHANGED, Cursor, HubRows, Split, TextSource
from temporal_sae.errors import InvalidOption, RunError, check_choice, check_number
from temporal_sae.registry import component

log = logging.getLogger(__name__)


@component("data")
@component("data.parts")
class MixtureText(TextSource):
    """Documents of several sources, in proportion of their characters.

    The next document is always of the part that has given least for its weight. Bytes stand for the
    characters of a large file, and a token of a column for four. A part that is used up begins its
    next pass; held-out text ends where the first part does, so that none is counted twice.

    Args:
        parts: what each is, as for `data`; they are numbered from 0.
        weights: the share of each, of any sum; null for equal ones.
        changed: see TextFiles; what the parts say of it does not count.
        folder: the run's own, which the parts do not hear of.

    Raises:
        InvalidOption: the parts are no sources, or the weights do not fit them.
    """

    held_out_advice = "give parts of data.parts a larger held_out_fraction, or use eval=none"

    def __init__(
        self,
        parts: Sequence[TextSource],
        weights: Sequence[float] | None = None,
        changed: str = "refuse",
        folder: Path | None = None,
    ) -> None:
        is_list = isinstance(parts, (list, tuple)) and len(parts) > 0
        if not is_list or not all(isinstance(part, TextSource) for part in parts):
            allowed = "a list of sources such as [{_target_: temporal_sae.data.StdlibText}]"
            raise InvalidOption("parts", parts, allowed)
        if weights is None:
            weights = [1.0] * len(parts)
        if not isinstance(weights, (list, tuple)) or len(weights) != len(parts):
            raise InvalidOption("weights", weights, f"a list of {len(parts)}, one for each part")
        self.weights = [check_number("weights", weight, above=True) for weight in weights]
        self.parts = list(parts)
        self.changed = check_choice("changed", changed, CHANGED)

    def documents(
        self, split: Split, seed: int, epoch: int, start: Cursor = 0
    ) -> Iterator[tuple[Cursor, str | Document]]:
        """Documents without end, or of one pass where they are held out.

        The cursor is a list of three numbers for each part: pass, cursor, and characters given.
        """
        begin = start or [[epoch, 0, 0] for _ in self.parts]
        turns = [
            _Turns(number, part, split, seed, *state)
            for number, (part, state) in enumerate(zip(self.parts, begin, strict=True))
        ]
        while True:
            given = [turn.size / weight for turn, weight in zip(turns, self.weights, strict=True)]
            document = turns[given.index(min(given))].next()
            if document is None:
                return
            yield [[turn.epoch, turn.cursor, turn.size] for turn in turns], document

    def from_hub(self) -> list[HubRows]:
        """Return what the parts read from there."""
        return [
            rows._replace(key=f"parts.{number}.{rows.key}")
            for number, part in enumerate(self.parts)
            for rows in part.from_hub()
        ]

    def describe(self) -> dict[str, Any]:
        """Return the facts of each part, and the weights."""
        return {"parts": [part.describe() for part in self.parts], "weights": self.weights}

    def listing(self) -> dict[str, Any]:
        """Return a fact for every local file, by the part's number and its name."""
        return {
            f"{number}/{name}": fact
            for number, part in enumerate(self.parts)
            for name, fact in part.listing().items()
        }

    def left_out(self) -> dict[str, dict[str, Any]]:
        """`count` and `example` of what has been passed over so far, by reason."""
        together: dict[str, dict[str, Any]] = {}
        for number, part in enumerate(self.parts):
            for reason, about in part.left_out().items():
                first = {"count": 0, "example": f"{number}/{about['example']}"}
                together.setdefault(reason, first)["count"] += about["count"]
        return together

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each part."""
        return {str(number): part.state_dict() for number, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` has told."""
        for number, part in enumerate(self.parts):
            part.load_state_dict(state.get(str(number), {}))


class _Turns:
    """One part's documents, pass after pass.

    Attributes:
        epoch, cursor, size: how far it has come, and the characters that it has given in all.
    """

    def __init__(
        self,
        number: int,
        part: TextSource,
        split: Split,
        seed: int,
        epoch: int,
        cursor: Cursor,
        size: int,
    ) -> None:
        self.epoch, self.cursor, self.size = epoch, cursor, size
        self._number, self._part, self._split, self._seed = number, part, split, seed
        self._documents = part.documents(split, seed, epoch, cursor)

    def next(self) -> str | Document | None:
        """Return the next document, or None where there is none to be held out any more."""
        found = self._take()
        if found is None and self._split == "train" and self.cursor:
            self._begin_next_pass()
            found = self._take()
        if found is None and self._split == "train":
            raise RunError(f"data.parts.{self._number} holds no text; leave it out")
        if found is None:
            return None
        self.cursor, document = found
        self.size += document_of(document).size()
        return document

    def _take(self) -> tuple[Cursor, str | Document] | None:
        try:
            return next(self._documents, None)
        except InvalidOption as error:
            raise error.within(f"parts.{self._number}") from error

    def _begin_next_pass(self) -> None:
        if self.epoch == 0:
            told = "data.parts.%d begins its second pass: one holds about %s characters"
            log.warning(told, self._number, f"{self.size:,}")
        self.epoch, self.cursor = self.epoch + 1, 0
        self._documents = self._part.documents(self._split, self._seed, self.epoch)
