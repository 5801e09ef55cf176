"""What a run prints does not decide how it ends."""

from __future__ import annotations

from contextlib import suppress
from typing import IO, Any


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
