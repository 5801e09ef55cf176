"""Choose a reader of `datasets` for a name: files by their ending, saved folders, the hub.

No code of a data set is run, and nothing is unpickled.
"""

from __future__ import annotations

import glob
import inspect
import io
import logging
import os
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import zstandard

from temporal_sae.data.patience import within
from temporal_sae.errors import InvalidOption, one_line
from temporal_sae.network import offline, unreachable, without_waiting

COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}
# Lines of JSON are read as text and parsed here: the reader of `datasets` takes millions of them at
# once, and one that is broken ends them all. Bytes that are not UTF-8 make a line no JSON.
JSON_LINES: tuple[str, dict[str, Any]] = ("text", {"encoding_errors": "backslashreplace"})
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".json": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".parquet": ("parquet", {}),
    ".txt": ("text", {}),
}
ZSTD_BLOCK = 4096  # bytes that are decompressed at once: to 128 MiB at most, where all are alike
EXPECTED = (
    f"a data set on the hub, or an existing folder, file or quoted glob ({' '.join(READERS)}, "
    f"also with {' '.join(sorted(COMPRESSED))})"
)
# How `datasets` begins what it says of these two options.
ABOUT_SPLIT = re.compile(r"(Bad|Unknown) split")
ABOUT_SUBSET = re.compile(r"BuilderConfig .* not found|Config name is missing")


@dataclass(frozen=True)
class Rows:
    """A data set to be read from its beginning, as often as wanted.

    Attributes:
        rows: of `datasets`, iterable.
        are_lines: each row has one line of JSON, still to be parsed, as `text`.
        columns: their names, where they are known before anything is read.
        come_by_network: they are read from the hub as needed.
    """

    rows: Any
    are_lines: bool
    columns: tuple[str, ...] | None
    come_by_network: bool = False


def open_rows(name: str, subset: str | None, split: str, streaming: bool, patience: float) -> Rows:
    """Open a data set by its name, its folder, or its files.

    Args:
        name: as for `HubText`, and so are the others.
        subset: of its configurations.
        split: to read.
        streaming: rather than downloading everything first, which may take as long as it takes.
        patience: seconds in which the hub has to answer.

    Raises:
        InvalidOption: there is none, it cannot be loaded, or it has no such split or subset.
    """
    prepare_readers()
    if not isinstance(name, str) or not name:
        raise InvalidOption("name", name, EXPECTED)
    path = Path(os.path.expanduser(name))
    import datasets  # noqa: F401 - here: two seconds that other sources save

    if path.is_dir():
        with offline():
            saved = open_saved(name, path, split)
            return saved or load(name, split, str(path.absolute()), subset, streaming=streaming)
    if files := find_files(path):
        kinds = {ending(file) for file in files}
        if len(kinds) > 1 or not kinds <= READERS.keys():
            raise InvalidOption("name", name, EXPECTED)
        reader, options = READERS[kinds.pop()]
        escaped = [glob.escape(str(file.absolute())) for file in files]
        options = {**options, "data_files": escaped, "streaming": streaming}
        with offline():
            return load(name, split, reader, are_lines="encoding_errors" in options, **options)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or ending(path) in READERS:
        raise InvalidOption("name", name, EXPECTED)
    with without_waiting() as reason:
        opening = partial(load, name, split, name, subset, streaming=streaming)
        try:
            rows: Rows = within(patience, opening) if streaming else opening()
            return replace(rows, come_by_network=streaming)
        except TimeoutError as error:
            raise cannot_be_loaded(name, error) from error
        except InvalidOption as error:
            if reason is None or error.option != "name":
                raise
            raise InvalidOption("name", name, unreachable(reason)) from error


def find_files(path: Path) -> list[Path]:
    """Return the regular file at `path`, or those that a glob matches, sorted."""
    if path.is_file():
        return [path]
    return sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())


def ending(file: Path) -> str:
    """`.jsonl` of `a.jsonl.gz`."""
    return Path(file.stem if file.suffix.lower() in COMPRESSED else file.name).suffix.lower()


def open_saved(name: str, folder: Path, split: str) -> Rows | None:
    """Return the rows that `save_to_disk` has left in a folder; None where there are none."""
    from datasets import DatasetDict, load_from_disk

    names = {path.name for path in folder.iterdir()}
    if not ("dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= names):
        return None
    try:
        found = load_from_disk(str(folder))
    except Exception as error:  # of whichever of its files is damaged
        raise cannot_be_loaded(name, error) from error
    if isinstance(found, DatasetDict):
        if split not in found:
            raise InvalidOption("dataset_split", split, f"one of {', '.join(map(str, found))}")
        found = found[split]
    return Rows(found.to_iterable_dataset(), False, tuple(found.column_names))


def load(
    name: str,
    split: str,
    *arguments: Any,
    are_lines: bool = False,
    streaming: bool,
    **options: Any,
) -> Rows:
    """Return the rows of `datasets.load_dataset`, with its refusals in one line."""
    from datasets import load_dataset

    if "trust_remote_code" in inspect.signature(load_dataset).parameters:  # gone in version 4
        options["trust_remote_code"] = False
    try:
        rows = load_dataset(*arguments, split=split, streaming=streaming, **options)
        columns = None if are_lines or not rows.column_names else tuple(rows.column_names)
        return Rows(rows if streaming else rows.to_iterable_dataset(), are_lines, columns)
    except Exception as error:  # of whichever library reads, unpacks or transfers the data
        reason = str(error)
        if ABOUT_SPLIT.match(reason):
            raise InvalidOption(
                "dataset_split", split, f"a split it has ({one_line(reason)})"
            ) from error
        if ABOUT_SUBSET.match(reason):
            subset = arguments[1] if len(arguments) > 1 else None
            raise InvalidOption("subset", subset, f"one it has ({one_line(reason)})") from error
        raise cannot_be_loaded(name, error) from error


def cannot_be_loaded(name: str, error: Exception) -> InvalidOption:
    """Return the refusal of a data set with what a library said."""
    return InvalidOption("name", name, f"a data set that can be loaded ({why(error)})")


def why(error: BaseException) -> str:
    """Return the reason in one line, with the file where a reader has named it.

    `datasets` wraps the error that tells something in one that does not.
    """
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__:
        error = error.__cause__
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    file = READERS_ERRORS.take_file()
    return one_line(f"{file}: {reason}" if file else reason) or type(error).__name__


class ReadersErrors(logging.Filter):
    """Keeps the file that a reader of `datasets` names in its log, and keeps the rest quiet.

    Readers log what they raise as well, and the file only there.
    """

    def __init__(self) -> None:
        super().__init__()
        self._file: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass but errors about a file."""
        found = re.search(r" file '(.+)' with error ", record.getMessage())
        if found and record.levelno == logging.ERROR:
            self._file = found[1]
            return False
        return True

    def take_file(self) -> str | None:
        """Return the file named since the last call, if there is one."""
        file, self._file = self._file, None
        return file


READERS_ERRORS = ReadersErrors()


class ZstdFrames(io.RawIOBase):
    """The content of a .zst file, to its end: zstandard's own reader takes a cut-off one for whole.

    Args:
        file: opened; its frames are read one after the other.
    """

    def __init__(self, file: Any) -> None:
        self._file, self._rest, self._content = file, b"", memoryview(b"")
        self._zstd = zstandard.ZstdDecompressor()
        self._frame = self._zstd.decompressobj()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as there is content, and return how far.

        Raises:
            EOFError: the file ends within a frame, or before the first.
        """
        while not self._content:
            compressed = self._rest or self._file.read(ZSTD_BLOCK)
            if not compressed and not self._frame.eof:
                name = getattr(self._file, "path", None) or getattr(self._file, "name", "the file")
                raise EOFError(f"{name} is cut off: it ends before its end-of-frame mark")
            if not compressed:
                return 0
            if self._frame.eof:
                self._frame = self._zstd.decompressobj()
            self._content = memoryview(self._frame.decompress(compressed))
            self._rest = self._frame.unused_data if self._frame.eof else b""
        size = min(len(buffer), len(self._content))
        buffer[:size], self._content = self._content[:size], self._content[size:]
        return size

    def close(self) -> None:
        """Close the file as well."""
        self._file.close()
        super().close()


class ZstdFile(io.BufferedReader):
    """The same, as an object that `datasets` can wrap, which fsspec's is not."""

    def __init__(self, file: Any, **_: Any) -> None:
        super().__init__(ZstdFrames(file))


def prepare_readers() -> None:
    """Listen to the readers' loggers, and let them read .zst; again is as once."""
    from fsspec.compression import register_compression  # slow to import

    register_compression("zstd", ZstdFile, "zst", force=True)
    for reader in ("json", "csv", "parquet", "arrow"):
        logging.getLogger(f"datasets.packaged_modules.{reader}.{reader}").addFilter(READERS_ERRORS)
