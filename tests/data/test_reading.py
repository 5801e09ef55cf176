"""Bytes of files: what is text, and what is said of the rest."""

import codecs
import gzip
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from temporal_sae.data.reading import HEAD, look_at, read_text, text_of

TEXT = "Grüße, 世界 🌍\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marks_choose_the_encoding_and_are_no_text(tmp_path, encoding):
    (tmp_path / "a").write_bytes(TEXT.encode(encoding))
    assert look_at(tmp_path / "a").problem is None
    assert read_text(tmp_path / "a") == TEXT


def test_big_endian():
    assert text_of(codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")) == TEXT


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (codecs.BOM_UTF8, "empty"),
        (b"a\0b", "binary"),
        (TEXT.encode("utf-16-le"), "not UTF-8"),
        ("abc".encode("utf-16-le"), "binary"),
        ("é".encode("latin-1"), "not UTF-8"),
        (gzip.compress(b"text", mtime=0), "not UTF-8"),
        (codecs.BOM_UTF16_LE + b"a", "not UTF-16"),
        ("é".encode()[:1], "not UTF-8"),
    ],
)
def test_what_holds_no_text(tmp_path, content, problem):
    (tmp_path / "a").write_bytes(content)
    assert look_at(tmp_path / "a").problem == problem
    with pytest.raises(ValueError, match=problem):
        read_text(tmp_path / "a")


@given(st.integers(0, 8), st.sampled_from(["utf-8", "utf-16"]))
@example(1, "utf-8")
def test_a_first_part_may_end_inside_a_character(offset, encoding):
    text = "x" * offset + "🌍é" * 20
    first = text_of(text.encode(encoding)[:50], is_whole=False)
    assert first and text.startswith(first)


def test_only_the_first_part_is_looked_at(tmp_path):
    (tmp_path / "a").write_bytes(b"a" * HEAD + b"\xff")
    look = look_at(tmp_path / "a")
    assert (look.size, look.problem) == (HEAD + 1, None)
    with pytest.raises(ValueError, match="not UTF-8"):
        read_text(tmp_path / "a")


def test_what_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "error").symlink_to("/proc/self/mem")  # a regular file that cannot be read at 0
    for path in (tmp_path / "pipe", tmp_path / "error", tmp_path / "missing"):
        assert look_at(path).problem.startswith("cannot be read (")
        with pytest.raises(ValueError, match=r"cannot be read \("):
            read_text(path)
