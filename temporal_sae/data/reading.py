"""Bytes of a file → text, or a few words on why there is none."""

from __future__ import annotations

import codecs
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from temporal_sae.files import open_regular

HEAD = 65536  # bytes that are looked at before a file's turn comes
# UTF-32 before UTF-16, with whose mark its own begins.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Look:
    """Encoding and compression of a file, as its first bytes tell them.

    Attributes:
        size: of the whole file, in bytes.
        crc32: of the first `HEAD` bytes.
        problem: why the file holds no text; None: nothing speaks against it.
    """

    size: int
    crc32: int
    problem: str | None


def look_at(file: Path) -> Look:
    """Read the first bytes; a file that cannot be read is told in `problem`."""
    try:
        with open_regular(file) as opened:
            size = os.fstat(opened.fileno()).st_size
            head = opened.read(HEAD)
    except OSError as error:
        return Look(0, 0, cannot_be_read(error))
    try:
        text_of(head, is_whole=size <= HEAD)
    except ValueError as error:
        return Look(size, zlib.crc32(head), str(error))
    return Look(size, zlib.crc32(head), None)


def read_text(file: Path) -> str:
    """The whole text of a regular file.

    Raises:
        ValueError: there is none; the message says why in a few words.
    """
    try:
        with open_regular(file) as opened:
            data = opened.read()
    except OSError as error:
        raise ValueError(cannot_be_read(error)) from error
    return text_of(data)


def text_of(data: bytes, is_whole: bool = True) -> str:
    """UTF-8, or UTF-16 or UTF-32 that begins with a byte order mark; the mark is no text.

    Args:
        data: the bytes of a file from its beginning.
        is_whole: they are all; otherwise the last character may be incomplete.

    Raises:
        ValueError: there is no text; the message says why in a few words.
    """
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data, final=is_whole)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(f"not {name}") from error
    if not text:
        raise ValueError("empty")
    if "\0" in text:
        raise ValueError("binary")
    return text


def cannot_be_read(error: OSError) -> str:
    """The reason that the operating system gives, without the path."""
    return f"cannot be read ({error.strerror or 'not a regular file'})"
