"""Bytes of a file → text, or a few words on why there is none."""

from __future__ import annotations

import codecs
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from temporal_sae.files import open_regular

HEAD = 65536  # bytes that are looked at before a file's turn comes
BLOCK = 2**20  # bytes that are read and decoded at once
# UTF-32 before UTF-16, with whose mark its own begins.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class Look:
    """Encoding and compression of a file, as its first bytes tell them.

    Attributes:
        size: of the whole file, in bytes.
        crc32: of the first `HEAD` bytes.
        problem: why the file holds no text; None: nothing speaks against it.
        codec: by which its text becomes bytes, the mark at its beginning aside.
        mark: bytes of that mark.
    """

    size: int
    crc32: int
    problem: str | None
    codec: str = "utf-8"
    mark: int = 0


def look_at(file: Path) -> Look:
    """Read the first bytes; a file that cannot be read is told in `problem`."""
    try:
        with open_regular(file) as opened:
            size = os.fstat(opened.fileno()).st_size
            head = opened.read(HEAD)
    except OSError as error:
        return Look(0, 0, cannot_be_read(error))
    problem = None
    try:
        text_of(head, is_whole=size <= HEAD)
    except ValueError as error:
        problem = str(error)
    return Look(size, zlib.crc32(head), problem, *encoding_of(head))


def encoding_of(head: bytes) -> tuple[str, int]:
    """Return the codec of a text and the length of its byte order mark, which is no text."""
    found = ((codec, len(mark)) for mark, codec in MARKS if head.startswith(mark))
    return next(found, ("utf-8", 0))


def read_text(file: Path) -> str:
    """Return the whole text of a regular file.

    Raises:
        ValueError: there is none; the message says why in a few words.
    """
    return "".join(text_blocks(file))


def text_blocks(file: Path, start: int = 0, end: int | None = None) -> Iterator[str]:
    """Yield the text of a regular file, a block at a time.

    Args:
        file: UTF-8, or UTF-16 or UTF-32 that begins with a byte order mark.
        start: the byte to begin at, at which a character begins.
        end: the byte to end before; None: that of the file.

    Raises:
        ValueError: there is no text; the message says why in a few words.
    """
    try:
        with open_regular(file) as opened:
            codec, mark = encoding_of(opened.read(4))
            place = opened.seek(max(start, mark))
            decoder = codecs.getincrementaldecoder(codec)()
            while data := opened.read(BLOCK if end is None else min(BLOCK, end - place)):
                place += len(data)
                yield _decoded(decoder, codec, data, is_whole=False)
            _decoded(decoder, codec, b"", is_whole=True)
    except OSError as error:
        raise ValueError(cannot_be_read(error)) from error
    if place <= mark:
        raise ValueError("empty")


def text_of(data: bytes, is_whole: bool = True) -> str:
    """UTF-8, or UTF-16 or UTF-32 that begins with a byte order mark; the mark is no text.

    Args:
        data: the bytes of a file from its beginning.
        is_whole: they are all; otherwise the last character may be incomplete.

    Raises:
        ValueError: there is no text; the message says why in a few words.
    """
    codec, mark = encoding_of(data)
    decoder = codecs.getincrementaldecoder(codec)()
    text = _decoded(decoder, codec, data[mark:], is_whole)
    if not text:
        raise ValueError("empty")
    return text


def _decoded(decoder: codecs.IncrementalDecoder, codec: str, data: bytes, is_whole: bool) -> str:
    try:
        text = decoder.decode(data, final=is_whole)
    except UnicodeDecodeError as error:
        raise ValueError(f"not {codec[:6].rstrip('-').upper()}") from error
    if "\0" in text:
        raise ValueError("binary")
    return text


def first_characters(blocks: Iterator[str], n: int | None) -> Iterator[str]:
    """Yield the first `n` characters of a text, all for None, and judge the rest of it, too."""
    for block in blocks:
        yield block[:n]
        if n is not None:
            n = max(n - len(block), 0)


def cannot_be_read(error: OSError) -> str:
    """Return the reason that the operating system gives, without the path."""
    return f"cannot be read ({error.strerror or 'not a regular file'})"
