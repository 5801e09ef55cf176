"""The files that a path stands for: one file, a folder, or a glob pattern.

Only regular files are found, since opening anything else may wait for ever, and each of them once.
Links are followed after everything that lies there itself, so that a file is found under its own
name where it has one, and cycles end. What runs and sweeps have left is never found, or a run that
writes below its own text would read itself.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from temporal_sae.data.reading import cannot_be_read
from temporal_sae.data.sources import LeftOut
from temporal_sae.errors import RunError
from temporal_sae.files import read_json

# What `datasets` reads by type, which as text would be markup.
TABLES = (".csv", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv")
OF_A_TABLE = "read by data=hub"
SEEN = "read under another name"
# What tells the folder of a run or a sweep, and keys that it has.
RECORDS = {"run.json": {"status", "config"}, "sweep.json": {"jobs"}}
Parts = tuple[str, ...]


@dataclass
class Found:
    """The files that a path stands for, and those that are left out.

    Attributes:
        root: the folder below which files have their names.
        files: regular files by their names, such as `poems/one.txt`, sorted.
        left_out: what lies there too, and why it is not among them.
        walked: whether the root was searched, which it is not for a single file.
    """

    root: Path
    files: dict[str, Path]
    left_out: LeftOut
    walked: bool


def find_files(
    path: Path, pattern: str = "*", exclude: Collection[str] = (), own: Path | None = None
) -> Found:
    """Return the files that `path` stands for.

    Args:
        path: a folder, a file, or a glob pattern.
        pattern: which file names count. Files of `TABLES` are left out unless it ends as they do.
        exclude: names of folders to leave out, wherever they stand; hidden ones always are.
        own: the folder of the run that asks; left out.
    """
    if os.path.isdir(path):
        search = _Search(path, ("**",), pattern, exclude, own)
        search.walk()
    elif os.path.lexists(path):
        search = _Search(path.parent, (glob.escape(path.name),), pattern, exclude, own)
        search.take((path.name,))
    else:
        root, parts = split_glob(path)
        search = _Search(root, parts, pattern, exclude, own)
        if parts and os.path.isdir(root):
            search.walk()
    return search.found()


def split_glob(path: Path) -> tuple[Path, Parts]:
    """Return the folder before the first part with a wildcard, and the parts from there on."""
    wild = [n for n, part in enumerate(path.parts) if glob.has_magic(part)]
    first = wild[0] if wild else len(path.parts)
    return Path(*path.parts[:first]), path.parts[first:]


def matches(parts: Parts, pattern: Parts) -> bool:
    """Return whether the parts of a path fit a glob pattern, where `**` is any number of them."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return matches(parts, pattern[1:]) or (bool(parts) and matches(parts[1:], pattern))
    return bool(parts) and fnmatch(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


def may_match_below(folder: Parts, pattern: Parts) -> bool:
    """Return whether anything inside a folder can fit a glob pattern."""
    if not folder or not pattern:
        return bool(pattern)
    if pattern[0] == "**":
        return True
    return fnmatch(folder[0], pattern[0]) and may_match_below(folder[1:], pattern[1:])


class _Search:
    """One walk; places are told by their parts below the root."""

    def __init__(
        self, root: Path, wanted: Parts, pattern: str, exclude: Collection[str], own: Path | None
    ) -> None:
        self._root, self._files, self._left_out = root, list[Parts](), LeftOut()
        self._wanted, self._pattern, self._exclude = wanted, pattern, exclude
        self._tables = tuple(t for t in TABLES if not pattern.lower().endswith(t))
        self._own = os.stat(own) if own is not None and os.path.isdir(own) else None
        self._entered: set[tuple[int, int]] = set()
        self._taken: set[tuple[int, int]] = set()

    def found(self) -> Found:
        """Return what has been found so far."""
        files = {"/".join(parts): Path(self._path(parts)) for parts in sorted(self._files)}
        return Found(self._root, files, self._left_out, bool(self._entered))

    def walk(self) -> None:
        """Everything below the root."""
        folders: list[Parts] = [()]
        links: list[Parts] = []
        while folders or links:
            if folders:
                inner, linked = self._enter(folders.pop())
                folders += inner
                links += linked
            elif os.path.isdir(self._path(link := links.pop(0))):
                folders += [link] if self._may_enter(link) else []
            else:
                self.take(link)

    def _enter(self, folder: Parts) -> tuple[list[Parts], list[Parts]]:
        """Take the files of a folder; returns its folders, and its links."""
        path = self._path(folder)
        try:
            status, entries = os.stat(path), sorted(os.scandir(path), key=lambda e: e.name)
        except OSError as error:
            self._pass_over(cannot_be_read(error), folder)
            return [], []
        if _identity(status) in self._entered:
            self._pass_over(SEEN, folder)
            return [], []
        self._entered.add(_identity(status))
        if folder and self._is_of_a_run(path, status, {e.name for e in entries}):
            self._pass_over("written by runs", folder)
            return [], []
        folders, links = [], []
        for entry in entries:
            place = (*folder, entry.name)
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                links.append(place)
            elif entry.is_dir():
                folders += [place] if self._may_enter(place) else []
            else:
                self.take(place)
        return folders, links

    def _may_enter(self, folder: Parts) -> bool:
        return folder[-1] not in self._exclude and may_match_below(folder, self._wanted)

    def _is_of_a_run(self, path: str, status: os.stat_result, names: set[str]) -> bool:
        if self._own is not None and os.path.samestat(status, self._own):
            return True
        return any(
            name in names and _has_keys(Path(path, name), keys) for name, keys in RECORDS.items()
        )

    def take(self, file: Parts) -> None:
        """Keep a file that fits the patterns, or note why it is left out."""
        if not (fnmatch(file[-1], self._pattern) and matches(file, self._wanted)):
            return
        path = self._path(file)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            self._pass_over("linked to nothing", file)
        except OSError as error:
            self._pass_over(cannot_be_read(error), file)
        else:
            ending = os.path.splitext(path)[1].lower()
            if not stat.S_ISREG(status.st_mode):
                self._pass_over("not a regular file", file)
            elif ending in self._tables:
                self._pass_over(f"{ending} {OF_A_TABLE}", file)
            elif self._is_new(path, status):
                self._files.append(file)
            else:
                self._pass_over(SEEN, file)

    def _is_new(self, path: str, status: os.stat_result) -> bool:
        # Asked of files with several names only: some file systems give all the same number.
        identity = _identity(status)
        has_one_name = status.st_nlink == 1 and not os.path.islink(path)
        is_new = has_one_name or identity not in self._taken
        self._taken.add(identity)
        return is_new

    def _path(self, place: Parts) -> str:
        return os.path.join(self._root, *place)

    def _pass_over(self, reason: str, place: Parts) -> None:
        self._left_out.add(reason, "/".join(place) or ".")


def is_same_folder(one: Path, other: Path) -> bool:
    """Return whether both paths exist and are one folder."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _has_keys(path: Path, keys: set[str]) -> bool:
    try:
        content = read_json(path)
    except (FileNotFoundError, RunError):
        return False
    return isinstance(content, dict) and keys <= content.keys()
