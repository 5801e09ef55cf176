"""Text in files: a folder, a glob, a single file, or the sources of the standard library."""

from __future__ import annotations

import logging
import os
import sysconfig
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from temporal_sae.data.documents import Document, LongText
from temporal_sae.data.find import OF_A_TABLE, find_files, is_same_folder
from temporal_sae.data.pieces import divide, in_pieces, piece_size
from temporal_sae.data.reading import first_characters, look_at, text_blocks
from temporal_sae.data.sources import (
    CHANGED,
    Split,
    TextSource,
    hash_fraction,
    hash_of,
    held_out_below,
    in_words,
    shuffled,
)
from temporal_sae.errors import InvalidOption, check_choice, check_int, check_number
from temporal_sae.registry import component

log = logging.getLogger(__name__)

AT_ONCE = 2**20  # bytes of a file; a larger one is read in pieces
SOME_TEXT = "a folder, file or glob that holds text files"


@component("data")
@component("data.parts")
class TextFiles(TextSource):
    """Text files of a folder, or those that a glob pattern matches.

    Files hold UTF-8, or UTF-16 with a byte order mark. What is left out is said, with the reason.
    A single file is cut into pieces at ends of lines, of which some are held out; of several, each
    belongs to one side as a whole. A large file costs no more memory than a small one.

    Args:
        path: a folder (searched recursively), a file, or a glob pattern such as `~/notes/**/*.md`.
        pattern: which file names count. Tables (.jsonl, .csv, .parquet ...) do not, as
            `data=hub` reads those, unless the pattern ends as they do: `*.jsonl` takes them as
            they stand, with their markup.
        exclude: names of folders to leave out, wherever they stand; hidden ones and those of runs
            always are.
        held_out_fraction: share of the files kept for evaluation, in [0, 1).
        max_document_chars: longer files are cut there, so that a few huge ones cannot dominate;
            null for no limit.
        changed: when a run is continued and the files are not those it has begun with, `refuse`,
            or `accept` that it goes on with other text.
        folder: the run's own, which is not read.

    Raises:
        InvalidOption: an option is not allowed, or no file holds text.
    """

    held_out_advice = (
        "give data.path more text or data.held_out_fraction a larger value, or use eval=none"
    )

    def __init__(
        self,
        path: str,
        pattern: str = "*",
        exclude: Collection[str] = (),
        held_out_fraction: float = 0.1,
        max_document_chars: int | None = None,
        changed: str = "refuse",
        folder: Path | None = None,
    ) -> None:
        if not isinstance(path, (str, int, Path)) or not str(path):
            raise InvalidOption("path", path, SOME_TEXT)
        if not isinstance(pattern, str) or not pattern:
            raise InvalidOption("pattern", pattern, "a pattern of file names such as *.md")
        if not is_list_of_names(exclude):
            raise InvalidOption("exclude", exclude, "a list of folder names such as [drafts,old]")
        self.path = str(path)
        self.held_out_fraction = check_number("held_out_fraction", held_out_fraction, maximum=0.999)
        if max_document_chars is not None:
            max_document_chars = check_int("max_document_chars", max_document_chars, 1)
        self.max_document_chars = max_document_chars
        self.changed = check_choice("changed", changed, CHANGED)
        found = find_files(Path(os.path.expanduser(self.path)), pattern, exclude, folder)
        if folder is not None and found.walked and is_same_folder(found.root, folder):
            allowed = "text outside the run's own folder (hydra.run.dir)"
            raise InvalidOption("path", self.path, allowed)
        self._files, self._left_out = found.files, found.left_out
        self._looks = {name: look_at(file) for name, file in found.files.items()}
        for name, look in self._looks.items():
            if look.problem:
                self._left_out.add(look.problem, name)
        self._usable = [name for name, look in self._looks.items() if not look.problem]
        self._pieces: dict[Split, list[tuple[int, int]]] = {}
        if len(self._usable) == 1:
            self._divide_only_file(self._usable[0])
        if not self._usable:
            raise InvalidOption("path", self.path, self._text_wanted())
        self.splits = self._divide()
        log.info("; ".join(self._told()))

    def _text_wanted(self) -> str:
        reasons = self._left_out.reasons()
        if reasons and all(reason.endswith(OF_A_TABLE) for reason in reasons):
            ending = min(reasons).split()[0]
            return (
                f"text files; {ending} is read by data=hub data.name=FILE data.text_column=COLUMN, "
                f"or with its markup by data.pattern='*{ending}'"
            )
        return SOME_TEXT + (f"; left out: {in_words(self.left_out())}" if reasons else "")

    def _divide(self) -> dict[Split, list[str]]:
        """Names of files by split, from a hash of each.

        Files without text are divided too: then the order of the others does not depend on when
        it comes out that there is none.
        """
        ranks = {name: hash_fraction(name) for name in self._files}
        limit = held_out_below([ranks[name] for name in self._usable], self.held_out_fraction)
        return {
            "held_out": [name for name, rank in ranks.items() if rank < limit],
            "train": [name for name, rank in ranks.items() if rank >= limit],
        }

    def _divide_only_file(self, name: str) -> None:
        """Note the bytes of each piece by split; a file without text is no longer usable."""
        file, look, place = self._files[name], self._looks[name], self._looks[name].mark
        pieces = []
        try:
            size = piece_size(first_characters(text_blocks(file), self.max_document_chars))
            blocks = first_characters(text_blocks(file), self.max_document_chars)
            for piece in in_pieces(blocks, size):
                pieces.append((place, place + len(piece.encode(look.codec))))
                place = pieces[-1][1]
        except ValueError as error:
            self._left_out.add(str(error), name)
            self._usable = []
            return
        if self.held_out_fraction > 0:
            numbers = divide(len(pieces), name, self.held_out_fraction)
            self._pieces = {split: [pieces[n] for n in some] for split, some in numbers.items()}

    def _told(self) -> Iterator[str]:
        facts = self.describe()
        yield f"text: {facts['files']:,} file(s), {facts['bytes'] / 2**20:.1f} MiB"
        if self._pieces:
            n_held_out, n_train = len(self._pieces["held_out"]), len(self._pieces["train"])
            yield f"cut into {n_held_out + n_train} pieces, of which {n_held_out} are held out"
        if self._left_out.reasons():
            yield f"left out: {in_words(self.left_out())}"

    def documents(
        self, split: Split, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[int, str | Document]]:
        """Yield one pass over the files of a split, without those that hold no text."""
        if self._pieces:
            name = self._usable[0]
            pieces = shuffled(self._pieces[split], seed, epoch)
            for cursor, (first, end) in enumerate(pieces[start:], start=start + 1):
                if text := self._text(name, first, end):
                    yield cursor, text
            return
        order = shuffled(self.splits[split], seed, epoch)
        for cursor, name in enumerate(order[start:], start=start + 1):
            if document := self._document(name):
                yield cursor, document

    def _document(self, name: str) -> str | Document:
        """As much of a file as counts; nothing where that is no text, which is noted."""
        file, look, limit = self._files[name], self._looks[name], self.max_document_chars
        if look.problem:
            return ""
        if look.size > AT_ONCE and (limit is None or limit > AT_ONCE):
            return LongText(file, look, limit, lambda why: self._left_out.add(why, name))
        return self._text(name)

    def _text(self, name: str, start: int = 0, end: int | None = None) -> str:
        """Return the text between two bytes of a file; note a file that holds none."""
        blocks = text_blocks(self._files[name], start, end)
        try:
            return "".join(first_characters(blocks, self.max_document_chars))
        except ValueError as error:
            self._left_out.add(str(error), name)
            return ""

    def describe(self) -> dict[str, Any]:
        """Number and bytes of the files with text, and a hash over `listing`."""
        return {
            "files": len(self._usable),
            "bytes": sum(self._looks[name].size for name in self._usable),
            "hash": hash_of(self.listing()),
        }

    def listing(self) -> dict[str, Any]:
        """Size and CRC-32 of the first 64 KiB of every file, by its name below the folder."""
        return {name: [look.size, look.crc32] for name, look in self._looks.items()}

    def left_out(self) -> dict[str, dict[str, Any]]:
        """Return `count` and `example` of what has been passed over so far, by reason."""
        return self._left_out.summary()


def is_list_of_names(value: Any) -> bool:
    """Return whether a value is a collection of strings, which a string is not."""
    if isinstance(value, (str, Mapping)) or not isinstance(value, Collection):
        return False
    return all(isinstance(name, str) for name in value)


@component("data")
@component("data.parts")
class StdlibText(TextFiles):
    """The sources of the running interpreter's standard library: real text on every machine.

    Args:
        held_out_fraction: share of the files kept for evaluation, in [0, 1).
        max_document_chars: see TextFiles.
        changed: see TextFiles; Python may have been updated.
        folder: see TextFiles.
    """

    def __init__(
        self,
        held_out_fraction: float = 0.1,
        max_document_chars: int | None = 20_000,
        changed: str = "refuse",
        folder: Path | None = None,
    ) -> None:
        super().__init__(
            sysconfig.get_path("stdlib"),
            pattern="*.py",
            exclude=("site-packages", "dist-packages"),
            held_out_fraction=held_out_fraction,
            max_document_chars=max_document_chars,
            changed=changed,
            folder=folder,
        )
