"""Text in files: a folder, a glob, or the sources of the standard library."""

from __future__ import annotations

import glob
import logging
import os
import sysconfig
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path

from temporal_sae.data.sources import Split, hash_fraction, shuffled
from temporal_sae.errors import InvalidOption, check_int, check_number

log = logging.getLogger(__name__)


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
        self.max_document_chars = (
            None
            if max_document_chars is None
            else check_int("max_document_chars", max_document_chars, 1)
        )
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
