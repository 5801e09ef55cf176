"""Reading files that anybody may have written, and writing them on any file system."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.errors import RunError, one_line, printable
from temporal_sae.files import open_regular, open_to_append, read_end, read_json, write_atomically


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


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EPERM])
def test_a_file_system_that_cannot_flush_or_change_modes_is_written_to(
    tmp_path, monkeypatch, number
):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    for detail in ("fsync", "chmod"):
        monkeypatch.setattr(os, detail, refuse)
    write_atomically(tmp_path / "run.json", "{}")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_the_umask_is_read_and_not_set(tmp_path, monkeypatch):
    """Whoever makes a file in another thread meanwhile would make it for everybody."""
    with monkeypatch.context() as patched:
        patched.delattr(os, "umask")
        write_atomically(tmp_path / "run.json", "{}")
    (tmp_path / "other").touch()
    assert (tmp_path / "run.json").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_disk_that_breaks_while_it_is_flushed_is_an_error(tmp_path, monkeypatch):
    def breaks(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", breaks)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_atomically(tmp_path / "run.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_removed_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "removed" / "run.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_is_given_twice_means_nothing(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": {"k": 1, "b": 2, "k": 3}}')
    with pytest.raises(RunError, match=r"a\.json: cannot be read \(the key 'k' is given twice\)"):
        read_json(path)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_only_a_regular_file_is_written_on(tmp_path, kind):
    path, precious = tmp_path / "log.txt", tmp_path / "precious"
    precious.write_text("mine")
    if kind == "link":
        path.symlink_to(precious)
    else:
        {"fifo": os.mkfifo, "folder": os.mkdir}[kind](path)
    with pytest.raises(OSError, match=r"log\.txt"):
        open_to_append(path)
    assert precious.read_text() == "mine"


def test_what_is_appended_comes_last(tmp_path):
    for word in (b"one ", b"two"):
        descriptor = open_to_append(tmp_path / "log.txt")
        os.write(descriptor, word)
        os.close(descriptor)
    assert (tmp_path / "log.txt").read_text() == "one two"


def test_the_end_of_a_file_is_read_and_of_anything_else_nothing(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"0123456789")
    assert read_end(path, 4) == b"6789"
    assert read_end(path, 100) == b"0123456789"
    os.mkfifo(tmp_path / "fifo")
    for nothing in ("missing", "fifo", "."):
        assert read_end(tmp_path / nothing, 4) == b""
