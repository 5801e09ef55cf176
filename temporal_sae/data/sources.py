"""Where text comes from: the standard library's sources, files, or a hub data set.

A source yields the documents of one pass over one split, in an order that the seed and the pass
fix. Every document comes with a cursor, and a pass can be started at any cursor, so that training
resumes in the middle of a pass without reading what came before.

Held-out text is disjoint by document: which split a file belongs to depends only on a hash of its
relative path, so it stays the same when other files come or go, and between machines.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import random
import sysconfig
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, Protocol

from temporal_sae.errors import InvalidOption, check_bool, check_int, check_number

log = logging.getLogger(__name__)

Split = Literal["train", "held_out"]


class TextSource(Protocol):
    """Documents in a reproducible order."""

    def documents(
        self, split: Split, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[int, str]]:
        """Yield (cursor after this document, text) for one pass, beginning at cursor `start`."""
        ...


def hash_fraction(name: str) -> float:
    """A number in [0, 1) that depends on `name` alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def shuffled(items: list[Path], seed: int, epoch: int) -> list[Path]:
    """The items in the order of pass number `epoch`."""
    order = list(items)
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


class TextFiles:
    """Text files of a folder, or those that a glob pattern matches.

    Args:
        path: a folder (searched recursively), a file, or a glob pattern such as `~/notes/**/*.md`.
        pattern: which file names of a folder count.
        exclude: names of folders to leave out, wherever they stand; hidden ones always are.
        held_out_fraction: share of the files kept for evaluation, in [0, 1).
        max_document_chars: longer files are cut there, so that a few huge ones cannot dominate;
            null for no limit.

    Raises:
        InvalidOption: no file matches.
    """

    def __init__(
        self,
        path: str,
        pattern: str = "*",
        exclude: Collection[str] = (),
        held_out_fraction: float = 0.1,
        max_document_chars: int | None = None,
    ) -> None:
        self.path = str(path)
        if not self.path:
            raise InvalidOption("path", path, "a folder, file or glob that holds text files")
        self.held_out_fraction = check_number("held_out_fraction", held_out_fraction, maximum=0.999)
        if max_document_chars is not None:
            check_int("max_document_chars", max_document_chars, 1)
        self.max_document_chars = max_document_chars
        self.root, files = find_files(Path(self.path).expanduser(), pattern, exclude)
        if not files:
            raise InvalidOption("path", self.path, "a folder, file or glob that holds text files")
        self.splits = self._divide(files)

    def _divide(self, files: list[Path]) -> dict[Split, list[Path]]:
        """Split by hash; where chance leaves a wanted side empty, the nearest file moves there."""
        ranked = sorted(files, key=self._rank)
        n_held_out = sum(self._rank(p) < self.held_out_fraction for p in ranked)
        if self.held_out_fraction > 0:
            n_held_out = max(1, n_held_out)
        n_held_out = min(n_held_out, len(ranked) - 1)
        return {"held_out": sorted(ranked[:n_held_out]), "train": sorted(ranked[n_held_out:])}

    def _rank(self, path: Path) -> float:
        return hash_fraction(path.relative_to(self.root).as_posix())

    def documents(
        self, split: Split, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[int, str]]:
        """One pass over the files of a split; files that are not UTF-8 text are skipped."""
        order = shuffled(self.splits[split], seed, epoch)
        for cursor, file in enumerate(order[start:], start=start + 1):
            text = read_text(file)
            if text:
                yield cursor, text[: self.max_document_chars]


class StdlibText(TextFiles):
    """The sources of the running interpreter's standard library: real text on every machine.

    Args:
        held_out_fraction: share of the files kept for evaluation, in [0, 1).
        max_document_chars: see TextFiles.
    """

    def __init__(
        self, held_out_fraction: float = 0.1, max_document_chars: int | None = 20_000
    ) -> None:
        super().__init__(
            sysconfig.get_path("stdlib"),
            pattern="*.py",
            exclude=("site-packages", "dist-packages"),
            held_out_fraction=held_out_fraction,
            max_document_chars=max_document_chars,
        )


class HubText:
    """A text data set of the Hugging Face hub, or a local folder that `datasets` can load.

    Args:
        name: data set name or local path.
        subset: which of its configurations, if it has several.
        dataset_split: the split to read.
        text_column: the column that holds the text.
        streaming: read over the network as needed instead of downloading everything first.
        held_out_fraction: share of the documents kept for evaluation, chosen by their content.
        shuffle_buffer: documents that `datasets` shuffles among; 0 keeps the stored order.
    """

    def __init__(
        self,
        name: str,
        subset: str | None = None,
        dataset_split: str = "train",
        text_column: str = "text",
        streaming: bool = True,
        held_out_fraction: float = 0.01,
        shuffle_buffer: int = 0,
    ) -> None:
        self.name, self.subset, self.dataset_split = name, subset, dataset_split
        self.text_column, self.streaming = text_column, check_bool("streaming", streaming)
        self.held_out_fraction = check_number("held_out_fraction", held_out_fraction, maximum=0.999)
        self.shuffle_buffer = check_int("shuffle_buffer", shuffle_buffer, 0)
        self._rows: Any = None

    def _load(self) -> Any:
        from datasets import load_dataset  # imported late: two seconds that other sources save

        if self._rows is None:
            try:
                rows = load_dataset(
                    self.name, self.subset, split=self.dataset_split, streaming=self.streaming
                )
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise InvalidOption(
                    "name", self.name, f"a data set that can be loaded ({reason})"
                ) from error
            if rows.column_names and self.text_column not in rows.column_names:
                columns = ", ".join(rows.column_names)
                raise InvalidOption("text_column", self.text_column, f"one of {columns}")
            self._rows = rows if self.streaming else rows.to_iterable_dataset()
        return self._rows

    def documents(
        self, split: Split, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[int, str]]:
        """One pass over the documents of a split."""
        rows = self._load()
        if self.shuffle_buffer and split == "train":
            rows = rows.shuffle(seed=seed + epoch, buffer_size=self.shuffle_buffer)
        for cursor, row in enumerate(rows.skip(start), start=start + 1):
            text = row[self.text_column]
            if not text:
                continue
            held_out = hash_fraction(text) < self.held_out_fraction
            if held_out == (split == "held_out"):
                yield cursor, text


def find_files(
    path: Path, pattern: str = "*", exclude: Collection[str] = ()
) -> tuple[Path, list[Path]]:
    """(root, sorted files below it) for a folder, a single file or a glob pattern."""
    if path.is_file():
        return path.parent, [path]
    if not path.is_dir():
        matches = (Path(p) for p in glob.glob(str(path), recursive=True))
        return Path(path.anchor), sorted(p for p in matches if p.is_file())
    files: list[Path] = []
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = [s for s in subfolders if s not in exclude and not s.startswith(".")]
        files += [Path(folder, n) for n in names if fnmatch(n, pattern) and not n.startswith(".")]
    return path, sorted(files)


def read_text(file: Path) -> str:
    """The file's text, or an empty string (and a line in the log) if it is not UTF-8 text."""
    try:
        text = file.read_bytes().decode("utf-8")
    except (UnicodeDecodeError, OSError) as error:
        log.debug("skipped %s: %s", file, error)
        return ""
    return "" if "\0" in text else text
