"""The commands of this package: where their config is, how they are typed, how they answer."""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import NoReturn

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf.errors import OmegaConfBaseException

from temporal_sae.errors import EvaluationFailed, InvalidOption, RunError, one_line, printable

WRONG_INPUT = 2
FULL = "the disk is full; what is written is whole, so free some space and "
PACKAGE = Path(__file__).resolve().parent
SCRIPT = "temporal-sae"
LAUNCH = PACKAGE.parent / "launch.py"
# A wheel holds the config groups inside the package; the sources have them beside it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
# What Hydra and YAML read as the text that it is, without quotes.
PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_/][\w./-]*", re.ASCII | re.IGNORECASE)


def fail(message: str) -> NoReturn:
    """Print what is to be corrected, in one line or, for a list of things, several; and exit."""
    lines = "\n".join(map(printable, message.split("\n")))
    print(f"error: {lines}", file=sys.stderr)
    sys.exit(WRONG_INPUT)


def why_unusable(error: OSError) -> str | None:
    """Return one line on a file that cannot be read or written.

    A folder may stand in its place, or the disk be read-only or full. None where the error names no
    file, or one that is missing, which is a bug of ours.
    """
    if error.errno in (ENOSPC, EDQUOT):
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        return f"{where}{FULL}give the same command again"
    if error.filename is None or isinstance(error, FileNotFoundError):
        return None
    path = error.filename2 if error.filename2 is not None else error.filename
    return f"{os.fsdecode(path)}: cannot be used ({error.strerror})"


def tell(error: Exception, folder: Path, then: str) -> str | None:
    """Return one line on what has ended a run and a person can correct; None for what is a bug.

    Args:
        error: what has ended the run.
        folder: of the run.
        then: what to do once there is space on the disk.
    """
    if isinstance(error, (InvalidOption, RunError, EvaluationFailed)):
        return str(error)
    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
        return f"{folder}: {FULL}{then}"
    if isinstance(error, OSError):
        return why_unusable(error)
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {one_line(str(error).splitlines()[0])}"
    return None


@contextmanager
def exit_on_mistakes(*, traceback: bool = False) -> Iterator[None]:
    """Print an error that a person can correct as one line, and exit; let every other go on up.

    Args:
        traceback: raise all of them.
    """
    try:
        yield
    except (InvalidOption, RunError, OSError) as error:
        told = why_unusable(error) if isinstance(error, OSError) else str(error)
        if told is None or traceback:
            raise
        fail(told)


class Parser(argparse.ArgumentParser):
    """A parser of arguments whose answer to a mistake is one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and who says more."""
        fail(f"{' '.join(message.split())}; {self.prog} --help says more")


def short(path: str | Path) -> str:
    """Return a path from the working directory, if it lies below that."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def quoted(text: str) -> str:
    """Return a text as the value of an override, which is read as just this text."""
    if PLAIN.fullmatch(text):
        return text
    # `${` would be replaced; a backslash keeps it, and those before it have to be doubled then.
    kept = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)
    quote = Quote.double if "'" in text and '"' not in text else Quote.single
    return QuotedString(kept, quote).with_quotes()


def in_shell(words: Sequence[str]) -> str:
    """Words as a shell takes them, with the easiest quotes to read and to type."""

    def one(word: str) -> str:
        if "'" in word and not re.search(r"[\\$`!]", word):
            return '"' + word.replace('"', '\\"') + '"'
        return shlex.quote(word)

    return " ".join(map(one, words))


def program() -> list[str]:
    """Return the words that start a run: the console script if that was used, or launch.py."""
    if Path(sys.argv[0]).name == SCRIPT or not LAUNCH.is_file():
        return [SCRIPT if shutil.which(SCRIPT) else short(Path(sys.executable).with_name(SCRIPT))]
    return [interpreter(), short(LAUNCH)]


def launch_command(
    overrides: Sequence[str], folder: Path | None = None, key: str = "hydra.run.dir"
) -> str:
    """Return the command that repeats a run in a new folder, or continues it in `folder`.

    Args:
        overrides: as typed; one for `key` is left out.
        folder: None: a new one.
        key: of the folder.
    """
    words = [override for override in overrides if not override.startswith(f"{key}=")]
    if folder is not None:
        words.append(f"{key}={quoted(str(folder))}")
    return in_shell([*program(), *words])


def module_command(module: str, *words: str) -> str:
    """Return the command that runs one of the package's modules."""
    return in_shell([interpreter(), "-m", module, *words])


def interpreter() -> str:
    """Return the Python that runs this, as a shell finds it from here."""
    return short(sys.executable or "python")


class _Unread(io.FileIO):
    """A file that may stop taking what is written, which goes nowhere from then on.

    The reader of a pipe goes away, or a disk is full.
    """

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(data)  # type: ignore[arg-type]


def let_readers_leave() -> None:
    """Let whoever reads our output stop reading, as `head` does, without an end to our work.

    What the output's encoding does not have is a `?` there.
    """
    if isinstance(sys.__stdout__, io.TextIOWrapper):
        sys.__stdout__.reconfigure(errors="replace")
    if sys.stdout is sys.__stdout__:
        sys.stdout = _forgiving(sys.__stdout__)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _forgiving(sys.__stderr__)


def _forgiving(stream: object) -> io.TextIOWrapper:
    """Return the same stream, but for what happens when nobody reads it any more."""
    if not isinstance(stream, io.TextIOWrapper) or stream.isatty():
        return stream  # type: ignore[return-value]
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Unread(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
