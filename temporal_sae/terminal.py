"""Printing that fits the terminal and never changes how a run ends."""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

NOT_A_TERMINAL_WIDTH = 120


class Forgiving:
    """A text stream whose errors are passed over.

    Characters that its encoding does not have become `?`; what cannot be written, as to a pipe that
    is closed or a disk that is full, is lost.

    Args:
        stream: takes what is written.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = getattr(self._stream, "encoding", None) or "ascii"
                self._stream.write(text.encode(encoding, "replace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def wide(console: Console) -> Console:
    """Return the console; where it writes to no terminal, one with columns enough for a table."""
    from rich.console import Console

    if console.is_terminal:
        return console
    return Console(file=console.file, width=max(console.width, NOT_A_TERMINAL_WIDTH))


class WrappingFormatter(logging.Formatter):
    """Breaks lines between words where a terminal would break them anywhere.

    Only information: a warning may hold a command or a path to be copied. Where standard output is
    no terminal a line stays a line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        text = super().format(record)
        if record.levelno > logging.INFO or not sys.stdout.isatty():
            return text
        return "\n".join(map(_wrapped, text.split("\n")))


def _wrapped(line: str) -> str:
    indent = line[: len(line) - len(line.lstrip())] or "  "
    return textwrap.fill(
        line,
        shutil.get_terminal_size().columns,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
