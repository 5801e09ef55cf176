"""Chats → tokens, through the tokenizer's own template, with the role that wrote each of them.

The template is rendered twice: as it is, and with a mark in place of each message. What lies around
the marks is the template's, so that the rest is known to be a message's. Names of special tokens in
a message stay text; a chat that holds some is tokenized message by message.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from temporal_sae.data.documents import Document, Piece
from temporal_sae.data.kinds import KINDS
from temporal_sae.errors import InvalidOption, one_line

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
MARK = "\ue000{}\ue001"  # characters of private use, which hardly any text holds
MARKED = re.compile("\ue000([0-9]+)\ue001")
TRIMMED: tuple[Callable[[str], str], ...] = (str, str.strip, str.rstrip, str.lstrip)
Message = dict[str, Any]
Span = tuple[str, str]  # text, and the kind of its tokens


class Chat(Document):
    """The messages of one chat.

    Args:
        messages: each with `role` and `content`.
        option: the key that names their column, for a refusal.
        column: its value.
        pass_over: called with what is wrong where they cannot be rendered; then it has no tokens.
    """

    def __init__(
        self, messages: list[Message], option: str, column: str, pass_over: Callable[[str], None]
    ) -> None:
        self._messages, self._option, self._column = messages, option, column
        self._pass_over = pass_over

    def pieces(self, tokenizer: Any, start: int = 0) -> Iterator[Piece]:
        """Yield all of it.

        Raises:
            InvalidOption: the tokenizer has no chat template, or cannot tell roles.
        """
        lacks = None if tokenizer.chat_template else "has no chat template"
        if lacks or not tokenizer.is_fast:
            lacks = lacks or "does not tell where in a text its tokens lie"
            allowed = f"null, as the tokenizer of this model {lacks}"
            raise InvalidOption(self._option, self._column, allowed)
        from jinja2 import TemplateError  # slow to import

        try:
            spans = self._spans(tokenizer)
        except (TemplateError, ValueError, TypeError, LookupError) as error:
            self._pass_over(f"does not fit the chat template ({one_line(error)})")
        else:
            yield encoded(spans, tokenizer)

    def _spans(self, tokenizer: Any) -> list[Span]:
        """Return the rendered chat in spans of one kind each."""
        text = tokenizer.apply_chat_template(self._messages, tokenize=False)
        marked = [{**m, "content": MARK.format(n)} for n, m in enumerate(self._messages)]
        frame = MARKED.split(tokenizer.apply_chat_template(marked, tokenize=False))
        spans: list[Span] = [(frame[0], "template")]
        place = len(frame[0]) if text.startswith(frame[0]) else -1
        for number, behind in zip(frame[1::2], frame[2::2], strict=True):
            message = self._messages[int(number)]
            variants = (trim(message["content"]) for trim in TRIMMED)
            found = (v for v in variants if place >= 0 and text.startswith(v + behind, place))
            if (content := next(found, None)) is None:
                break
            place += len(content + behind)
            spans += [(content, ROLES[message["role"]]), (behind, "template")]
        if place != len(text):
            raise ValueError("it rewrites messages, so that nothing tells their role")
        return spans

    def size(self) -> int:
        """Return the number of characters of its messages."""
        return sum(len(message["content"]) for message in self._messages)


def encoded(spans: list[Span], tokenizer: Any) -> Piece:
    """Return the tokens of all spans, and the bit of the kind in which each of them begins."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    names = re.compile("|".join(map(re.escape, special)) or r"(?!)")
    injected = any(names.search(text) for text, kind in spans if kind != "template")
    ids: list[int] = []
    kinds: list[int] = []
    for run in [[span] for span in spans] if injected else [spans]:
        starts = [0, *accumulate(len(text) for text, _ in run)]
        found = tokenizer(
            "".join(text for text, _ in run),
            add_special_tokens=False,
            split_special_tokens=injected and run[0][1] != "template",
            return_offsets_mapping=True,
            verbose=False,
        )
        ids += found["input_ids"]
        for first, _ in found["offset_mapping"]:
            kinds.append(KINDS[run[min(bisect_right(starts, first), len(run)) - 1][1]])
    return Piece(ids, None, kinds)


def is_chat(value: Any) -> bool:
    """Return whether a value is a list of messages, each a text of a known role."""
    return isinstance(value, list) and all(
        isinstance(message, dict)
        and isinstance(message.get("content"), str)
        and message.get("role") in ROLES
        for message in value
    )
