"""Labelled text on every machine: snippets of the standard library's sources.

Each snippet carries two labels. `package` is the top-level package that its file belongs to; `kind`
is what it is: the code of a function without docstrings and comments, a docstring, or a block of
comment lines. Which side of the split a snippet is on depends on its file, so no file is on both.
"""

from __future__ import annotations

import functools
import logging
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from temporal_sae.data.find import find_files
from temporal_sae.data.reading import read_text
from temporal_sae.data.sources import hash_fraction
from temporal_sae.errors import InvalidOption, RunError, check_number, keep_int
from temporal_sae.eval.tasks.python_sources import KINDS, Kind, Piece, pieces_of
from temporal_sae.registry import component

log = logging.getLogger(__name__)

Side = Literal["train", "test"]
SIDES: tuple[Side, ...] = ("train", "test")
Cell = tuple[str, Kind]  # a package and a kind

# Not packages of every installation: left out by distributions that split Python into several
# packages, or gone in 3.12 or 3.13. With them the classes would differ between machines.
# `encodings` is generated tables.
LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "distutils"}
    | {"tkinter", "turtledemo", "ensurepip", "msilib", "pydoc_data", "_pyrepl", "encodings"}
)


@component("eval.snippets")
@dataclass(frozen=True)
class SnippetOptions:
    """Choice of the snippets of Python packages.

    Attributes:
        n_packages: packages that are told apart, those with the most snippets.
        min_chars: shorter snippets are left out.
        max_per_file: snippets of one kind that a file gives at most, so that none dominates.
        test_share: share of each package's snippets, in whole files, that probes are tested on.
        seed: order of the snippets.

    Raises:
        InvalidOption: an option is out of range.
    """

    n_packages: int = 5
    min_chars: int = 40
    max_per_file: int = 40
    test_share: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        keep_int(self, "n_packages", 2)
        keep_int(self, "min_chars", 1)
        keep_int(self, "max_per_file", 1)
        check_number("test_share", self.test_share, minimum=0.01, maximum=0.99)
        keep_int(self, "seed", 0)


@dataclass(frozen=True)
class Snippet:
    """A piece of a source file, with its labels.

    Attributes:
        text: without the marks that give the kind away: no quotes, no `#`.
        package: top-level package.
        kind: code, docstring or comment.
        file: path relative to the standard library.
        line: where it begins.
    """

    text: str
    package: str
    kind: Kind
    file: str
    line: int


@dataclass(frozen=True)
class Snippets:
    """Snippets by side, package and kind, each in an order that does not depend on the others.

    Attributes:
        packages: in alphabetical order.
        cells: all snippets of a side and a cell; a key for each combination.
    """

    packages: tuple[str, ...]
    cells: Mapping[tuple[Side, Cell], tuple[Snippet, ...]]

    def texts(self, side: Side, cell: Cell, start: int = 0, stop: int | None = None) -> list[str]:
        """Return the texts of a cell, in order."""
        return [snippet.text for snippet in self.cells[side, cell][start:stop]]

    def require(self, option: str, value: int, side: Side, cell: Cell, needed: int) -> None:
        """Refuse an option that asks for more rows than there are.

        Raises:
            InvalidOption: `option=value` needs `needed` rows of `cell` and there are fewer.
        """
        there = len(self.cells[side, cell])
        if there < needed:
            package, kind = cell
            raise InvalidOption(
                option,
                value,
                f"lower: it takes {needed} {side} rows of every class, and {kind} of package "
                f"{package} in the standard library has {there}",
            )


@functools.lru_cache(maxsize=4)
def standard_library(options: SnippetOptions) -> Snippets:
    """Return the snippets of the running interpreter's standard library; read once per process."""
    return read_snippets(Path(sysconfig.get_path("stdlib")), options)


def read_snippets(root: Path, options: SnippetOptions) -> Snippets:
    """Return the snippets of the packages below `root`.

    Raises:
        RunError: too few packages have a snippet of each kind on both sides.
    """
    found = _all_snippets(root, options.min_chars)
    by_package: dict[str, list[Snippet]] = defaultdict(list)
    for snippet in _at_most_per_file(found, options.max_per_file, options.seed):
        by_package[snippet.package].append(snippet)
    divided = {name: _divide(own, options.test_share) for name, own in by_package.items()}
    # By the scarcest class, for every class has to have enough.
    size = {name: min(map(len, cells.values())) for name, cells in divided.items()}
    largest = sorted((n for n in size if size[n]), key=lambda name: (-size[name], name))
    if len(largest) < options.n_packages:
        raise RunError(
            f"{root} holds sources of {len(largest)} packages with code, docstrings and comments "
            f"in several files; the tasks need {options.n_packages}"
        )
    packages = tuple(sorted(largest[: options.n_packages]))
    cells = {
        (side, (name, kind)): tuple(own)
        for name in packages
        for (side, kind), own in divided[name].items()
    }
    return Snippets(packages, cells)


def _all_snippets(root: Path, min_chars: int) -> Iterator[Snippet]:
    """Every snippet of every package; of equal texts (licences) only the first."""
    seen = set()
    for name, file in find_files(root, "*.py", LEFT_OUT).files.items():
        package, _, rest = name.partition("/")
        if not rest:
            continue
        for kind, line, text in _pieces(file):
            if len(text) >= min_chars and text not in seen:
                seen.add(text)
                yield Snippet(text, package, kind, name, line)


def _pieces(file: Path) -> list[Piece]:
    try:
        return list(pieces_of(read_text(file)))
    except (SyntaxError, ValueError, RecursionError) as error:
        log.debug("skipped %s: %s", file, error)
        return []


def _at_most_per_file(snippets: Iterator[Snippet], limit: int, seed: int) -> Iterator[Snippet]:
    """In random order, the first so many of each file and kind."""
    taken: Counter[tuple[str, str]] = Counter()
    order = sorted(snippets, key=lambda s: hash_fraction(f"{seed}/{s.file}/{s.line}/{s.kind}"))
    for snippet in order:
        taken[snippet.file, snippet.kind] += 1
        if taken[snippet.file, snippet.kind] <= limit:
            yield snippet


def _divide(snippets: list[Snippet], test_share: float) -> dict[tuple[Side, Kind], list[Snippet]]:
    """Both sides of a package by kind.

    Files are taken by the hash of their path; each goes to the test side if it still fits there.
    A file's size is its share of the package's snippets, averaged over the kinds.
    """
    of_kind = Counter(s.kind for s in snippets)
    size: dict[str, float] = defaultdict(float)
    for snippet in snippets:
        size[snippet.file] += 1 / of_kind[snippet.kind] / len(of_kind)
    filled, test_files = 0.0, set()
    for file in sorted(size, key=hash_fraction):
        if filled + size[file] <= test_share:
            filled += size[file]
            test_files.add(file)
    divided: dict[tuple[Side, Kind], list[Snippet]] = {(s, k): [] for s in SIDES for k in KINDS}
    for snippet in snippets:
        side: Side = "test" if snippet.file in test_files else "train"
        divided[side, snippet.kind].append(snippet)
    return divided
