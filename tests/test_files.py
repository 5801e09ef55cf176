"""Reading files that anybody may have written."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.errors import RunError, one_line, printable
from temporal_sae.files import open_regular, read_json


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "cfg.json")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "cfg.json")
    with pytest.raises(RunError, match=r"cfg\.json: cannot be read .*not a regular file"):
        read_json(tmp_path / "cfg.json")


def test_a_device_is_refused():
    with pytest.raises(OSError, match="not a regular file"):
        open_regular("/dev/zero")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"{", b"[" * 100_000, b'{"a": NaN', b"\x00" * 10]
)
def test_what_is_no_json_is_one_line(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(RunError) as refused:
        read_json(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_told_from_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "run.json")


@given(st.text())
def test_messages_hold_nothing_that_a_terminal_would_obey(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


def test_messages_keep_letters_of_every_script():
    assert printable("größer 東京 λ") == "größer 東京 λ"
    assert one_line("a\x1b[31mb\nc") == "a\\x1b[31mb c"
