"""Documents of a text source, which become tokens piece by piece.

A tokenizer takes some 200 bytes for each character, so that a long text is tokenized in pieces, and
a file is read in pieces, too. They end where tokens do, behind a word and before the space that
follows it. Some tokenizers see the beginning of a piece as that of a text; then one token there may
be another.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from temporal_sae.data.reading import Look, first_characters, text_blocks
from temporal_sae.errors import RunError, printable

PIECE_CHARS = 2**17
CHARS_OF_A_TOKEN = 4  # roughly, in English; for documents that have no characters
# Greedy: the last such place. Tokens take the space before them along, and may take the line break
# behind a full stop, but not behind a letter.
END_OF_WORD = re.compile(r".*\w(?=\s)", re.DOTALL)
BEFORE_SPACE = re.compile(r".*\S(?=\s)", re.DOTALL)


class Piece(NamedTuple):
    """Tokens of a part of a document.

    Attributes:
        ids: the tokens.
        end: where the next piece begins, in a unit of the document's own; None: this is the last.
        kinds: bits of `KINDS` for each of them beside those that its number tells; None: no others.
    """

    ids: list[int]
    end: int | None = None
    kinds: list[int] | None = None


class Document(ABC):
    """One document of a source; most are just strings, which `document_of` makes one of these."""

    @abstractmethod
    def pieces(self, tokenizer: Any, start: int = 0) -> Iterator[Piece]:
        """Yield the tokens from `start` on, which is 0 or the end of an earlier piece."""

    @abstractmethod
    def size(self) -> int:
        """Return its length, roughly in characters."""


def document_of(found: str | Document) -> Document:
    """Return a document as a source yields it; a string is its text."""
    return Text(found) if isinstance(found, str) else found


class Text(Document):
    """A text that lies in memory.

    Args:
        text: the characters, which are the unit of its places.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def pieces(self, tokenizer: Any, start: int = 0) -> Iterator[Piece]:
        """Yield its tokens from a character on."""
        end = start
        for text, is_last in cut(iter((self._text,)), PIECE_CHARS, piece_end, start):
            end += len(text)
            yield Piece(ids_of(text, tokenizer), None if is_last else end)

    def size(self) -> int:
        """Return the number of characters."""
        return len(self._text)


class LongText(Document):
    """A file that is read in pieces, so that it costs no more memory than a small one.

    Args:
        file: with text; bytes are the unit of its places.
        look: at its first bytes.
        max_chars: it is cut there; None: nowhere.
        leave_out: called with the reason where it turns out to hold no text; it has no tokens then.
    """

    def __init__(
        self, file: Path, look: Look, max_chars: int | None, leave_out: Callable[[str], None]
    ) -> None:
        self._file, self._look, self._max_chars = file, look, max_chars
        self._leave_out = leave_out

    def pieces(self, tokenizer: Any, start: int = 0) -> Iterator[Piece]:
        """Yield its tokens from a byte on; the whole file is judged before its first piece."""
        if start == 0:
            try:
                exhaust(text_blocks(self._file))
            except ValueError as error:
                self._leave_out(str(error))
                return
        for text, end, is_last in self._texts(start):
            yield Piece(ids_of(text, tokenizer), None if is_last else end)

    def _texts(self, start: int) -> Iterator[tuple[str, int, bool]]:
        # Characters are counted from the beginning, which only their limit needs.
        end = start if self._max_chars is None else 0
        blocks = first_characters(text_blocks(self._file, end), self._max_chars)
        end = max(end, self._look.mark)
        try:
            for text, is_last in cut(blocks, PIECE_CHARS, piece_end):
                end += len(text.encode(self._look.codec))
                if end > start:
                    yield text, end, is_last
        except ValueError as error:
            name = printable(str(self._file))
            raise RunError(
                f"{name}: {error} behind byte {end}, unlike before; it has changed"
            ) from error

    def size(self) -> int:
        """Return the number of bytes that count, one for each character of a limit."""
        return min(self._look.size, self._max_chars or self._look.size)


def exhaust(blocks: Iterator[str]) -> None:
    """Read to the end, keeping nothing."""
    for _ in blocks:
        pass


def ids_of(text: str, tokenizer: Any) -> list[int]:
    """Return the tokens of a text, without those that a tokenizer would put around it."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def cut(
    blocks: Iterator[str], longest: int, end_of: Callable[[str, int], int], start: int = 0
) -> Iterator[tuple[str, bool]]:
    """Yield (piece, it is the last) of a text, of which hardly more than a block is held.

    Args:
        blocks: the text.
        longest: the most characters behind the beginning of a piece that decide on its end.
        end_of: returns the end of the piece that begins at a place of a text.
        start: characters to pass over; they lie in the first block.
    """
    text, more = next(blocks, ""), True
    while True:
        while more and len(text) - start <= longest:
            block = next(blocks, None)
            if block is None:
                more = False
            else:
                text, start = text[start:] + block, 0
        if start == len(text):
            return
        end = end_of(text, start)
        yield text[start:end], not more and end == len(text)
        start = end


def piece_end(text: str, start: int) -> int:
    """Return the end of the piece of `text` that begins at `start`."""
    limit = start + PIECE_CHARS
    if limit >= len(text):
        return len(text)
    middle = start + PIECE_CHARS // 2
    place = END_OF_WORD.match(text, middle, limit) or BEFORE_SPACE.match(text, middle, limit)
    return place.end() if place else limit
