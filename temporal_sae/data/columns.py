"""Columns of a table that hold documents: text, tokens, or chats."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from temporal_sae.data.chat import ROLES, Chat, is_chat
from temporal_sae.data.documents import CHARS_OF_A_TOKEN, Document, Piece

PassOver = Callable[[str], None]


class Column(ABC):
    """A column that holds a document in each row.

    Args:
        name: of the column.

    Attributes:
        option: the key that names it.
    """

    option: str

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def read(self, value: Any) -> tuple[Any, str | None]:
        """Return (what a row holds, None), or (anything, why that is no document)."""

    @abstractmethod
    def document(self, value: Any, pass_over: PassOver) -> str | Document:
        """Return the document of what has been read.

        Args:
            value: what `read` has returned.
            pass_over: called with what is wrong where only the tokenizer shows that.
        """

    def content(self, value: Any) -> str:
        """Return a text that stands for the document."""
        return json.dumps(value, sort_keys=True)


class TextColumn(Column):
    """A column of text."""

    option = "text_column"

    def read(self, value: Any) -> tuple[Any, str | None]:
        """Return a text, or None for an empty one."""
        if value is None:
            return value, None
        if not isinstance(value, str):
            return value, f"holds no text in the column {self.name} but {a(value)}"
        return value, half_a_pair(value, self.name)

    def document(self, value: str, pass_over: PassOver) -> str:
        """Return the text itself."""
        return value

    def content(self, value: str) -> str:
        """Return the text itself."""
        return value


class TokensColumn(Column):
    """A column of lists of whole numbers, which are tokens; .csv and .tsv hold them as JSON."""

    option = "tokens_column"

    def read(self, value: Any) -> tuple[Any, str | None]:
        """Return a list of numbers, or None for an empty one."""
        value = from_json(value)
        if value is None or (isinstance(value, list) and all(is_number(v) for v in value)):
            return value, None
        what = "other things than tokens" if isinstance(value, list) else a(value)
        return value, f"holds no list of tokens in the column {self.name} but {what}"

    def document(self, value: list[int], pass_over: PassOver) -> Document:
        """Return the tokens, to be judged by the tokenizer's vocabulary."""
        return Tokens(value, self.name, pass_over)


class MessagesColumn(Column):
    """A column of lists of messages with `role` and `content`; .csv and .tsv hold them as JSON."""

    option = "messages_column"

    def read(self, value: Any) -> tuple[Any, str | None]:
        """Return a list of messages, or None for an empty one."""
        value = from_json(value)
        if value is None:
            return value, None
        if not is_chat(value):
            wanted = f"role ({', '.join(ROLES)}) and content, which is text"
            return value, f"holds no list of messages with {wanted}, in the column {self.name}"
        return value, half_a_pair("".join(m["content"] for m in value), self.name)

    def document(self, value: list[dict[str, Any]], pass_over: PassOver) -> Document:
        """Return the chat, to be rendered by the tokenizer's template."""
        return Chat(value, self.option, self.name, pass_over)


class Tokens(Document):
    """Tokens as they are.

    Args:
        ids: whole numbers.
        column: from which they come.
        pass_over: called with what is wrong where the tokenizer has no such token.
    """

    def __init__(self, ids: list[int], column: str, pass_over: PassOver) -> None:
        self._ids, self._column, self._pass_over = ids, column, pass_over

    def pieces(self, tokenizer: Any, start: int = 0) -> Iterator[Piece]:
        """Yield all of them."""
        size = len(tokenizer)
        if wrong := [n for n in self._ids if not 0 <= n < size]:
            limit = f"the tokenizer of this model has 0 to {size - 1}"
            self._pass_over(f"holds the token {wrong[0]} in the column {self._column}; {limit}")
        else:
            yield Piece(self._ids)

    def size(self) -> int:
        """Return about how many characters they stand for."""
        return CHARS_OF_A_TOKEN * len(self._ids)


def is_number(value: Any) -> bool:
    """Return whether a value is a whole number, which true is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def from_json(value: Any) -> Any:
    """Return the value that a text writes as JSON; anything else as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def half_a_pair(text: str, column: str) -> str | None:
    """Return why characters are no text, or None if they are."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"holds half a surrogate pair in the column {column}, which is no text"
    return None


def a(value: Any) -> str:
    """Return the kind of a value, in words."""
    kinds = {dict: "an object", list: "a list", bool: "true or false", int: "a number", str: "text"}
    return {**kinds, float: "a number"}.get(type(value), f"a {type(value).__name__}")
