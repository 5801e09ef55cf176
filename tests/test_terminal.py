"""Printing never changes how a run ends."""

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from rich.console import Console

import launch
from temporal_sae.terminal import Forgiving, WrappingFormatter
from tests.test_cli import small

ROOT = Path(launch.__file__).parent


class Full(io.StringIO):
    """A file on a full disk, or a pipe that nobody reads."""

    def write(self, text=None):
        raise BrokenPipeError(32, "Broken pipe")

    flush = write


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16"])
def test_what_an_encoding_has_not_is_replaced(encoding):
    data = io.BytesIO()
    stream = Forgiving(io.TextIOWrapper(data, encoding=encoding))
    print("λ2 · 3 – \udcff", file=stream, flush=True)
    assert "2" in data.getvalue().decode(encoding)


@pytest.mark.parametrize("stream", [Full(), io.TextIOWrapper(io.BytesIO(), "ascii")])
def test_a_run_ends_well_whatever_it_is_printed_on(command, random_gemma, monkeypatch, stream):
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        code, _, err = command(*small(random_gemma), "hydra.run.dir=mine")
    assert code == 0, err
    assert json.loads(Path("mine/run.json").read_text())["status"] == "finished"
    if not isinstance(stream, Full):
        stream.flush()
        text = stream.buffer.getvalue().decode("ascii")
        assert "CE score" in text
        assert "--------" in text  # the lines of the table, in ASCII


def test_in_a_program_of_ones_own_too(random_gemma, tmp_path):
    from hydra import compose, initialize_config_dir

    from temporal_sae.experiment import run_experiment

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", small(random_gemma))
    ascii_only = io.TextIOWrapper(io.BytesIO(), "ascii")
    run_experiment(cfg, tmp_path / "run", console=Console(file=ascii_only))
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_lines_of_a_terminal_break_between_words(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    text = "memory (MiB): language model 7 · logits in evaluation 192 · tracker 9\n  free 18,098"
    shown = WrappingFormatter("%(message)s").format(
        logging.makeLogRecord({"msg": text, "levelno": logging.INFO})
    )
    assert max(map(len, shown.split("\n"))) <= columns
    assert shown.split() == text.split()
    command = "stopped; to continue: python launch.py " + "a=1 " * 30
    warning = logging.makeLogRecord({"msg": command, "levelno": logging.WARNING})
    assert WrappingFormatter("%(message)s").format(warning) == command
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    whole = logging.makeLogRecord({"msg": "word " * 50, "levelno": logging.INFO})
    assert "\n" not in WrappingFormatter("%(message)s").format(whole)


def test_a_run_in_a_narrow_terminal(command, random_gemma, monkeypatch):
    """What a terminal of 60 columns would have to break itself."""
    reader, writer = os.openpty()
    termios.tcsetwinsize(writer, (24, 60))
    monkeypatch.setenv("COLUMNS", "60")
    shown = bytearray()
    reading = threading.Thread(target=read_all, args=(reader, shown))
    reading.start()
    with os.fdopen(writer, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", terminal)
        code, _, err = command(*small(random_gemma), "hydra.run.dir=mine")
    reading.join()
    assert code == 0, err
    lines = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    long = [line for line in re.split("[\r\n]+", lines) if len(line) > 60]
    assert [line for line in long if " " in line[:60].strip()] == []
    assert "CE score" in lines


def read_all(descriptor, into):
    """Read a pseudo-terminal until its other end is closed."""
    with contextlib.suppress(OSError):
        while data := os.read(descriptor, 4096):
            into += data


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["goes away", "knows only ASCII"])
def test_a_whole_run_says_nothing_of_it(random_gemma, tmp_path, reader):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *small(random_gemma), "hydra.run.dir=mine"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
    )
    if reader == "goes away":
        process.stdout.close()
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert b"Error" not in err
    assert json.loads((tmp_path / "mine/run.json").read_text())["status"] == "finished"
