"""Text in a data set of the Hugging Face hub, or in local files that `datasets` can load."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from temporal_sae.data.columns import Column, MessagesColumn, TextColumn, TokensColumn, a
from temporal_sae.data.documents import Document
from temporal_sae.data.patience import patiently
from temporal_sae.data.readers import Rows, find_files, open_rows, why
from temporal_sae.data.reading import look_at
from temporal_sae.data.sources import (
    CHANGED,
    HubRows,
    LeftOut,
    Split,
    TextSource,
    hash_fraction,
    hash_of,
)
from temporal_sae.errors import (
    InvalidOption,
    RunError,
    check_bool,
    check_choice,
    check_int,
    check_number,
    check_words,
)
from temporal_sae.registry import component

log = logging.getLogger(__name__)

NUMBER = "temporal_sae: row number"  # a column beside those of the data set
NO_TEXT, BROKEN = "rows without text", "broken rows"


@component("data")
@component("data.parts")
class HubText(TextSource):
    """A data set of the Hugging Face hub, or local files that `datasets` can load.

    A row is a document: a row of a table, a JSON object of a list or a line, a line of a .txt file.
    Rows that hold nothing are passed over. A row that is no text (of another type, a line that is
    no JSON, half a surrogate pair) ends the run, or is passed over where `skip_broken` allows it.
    What cannot be read at all, such as a truncated file, ends the run in any case. Where rows come
    over the network and it fails, they are tried again with growing pauses.

    Args:
        name: data set name, a folder, a file or a glob: .jsonl .json .csv .tsv .parquet .txt, also
            compressed; or a folder that `save_to_disk` wrote.
        subset: which of its configurations, if it has several.
        dataset_split: the split to read.
        text_column: the column that holds the text, where neither of the next two is given.
        tokens_column: the column that holds lists of tokens of this model; nothing is tokenized.
        messages_column: the column that holds chats, lists of messages with `role` and `content`,
            which become tokens through the tokenizer's chat template.
        streaming: read as needed instead of downloading or converting everything first.
        held_out_fraction: share of the documents kept for evaluation, chosen by their content.
        shuffle_buffer: documents that `datasets` shuffles among; 0 keeps the stored order.
        patience: seconds in which the next row has to come over the network, all tries together.
        skip_broken: rows that may be passed over although they are no text; each is told.
        changed: when a run is continued and the files of a local data set are not those it has
            begun with, `refuse`, or `accept` that it goes on with other text.
        folder: the run's own, which is not read.

    Raises:
        InvalidOption: an option is out of range.
    """

    def __init__(
        self,
        name: str,
        subset: str | None = None,
        dataset_split: str = "train",
        text_column: str = "text",
        tokens_column: str | None = None,
        messages_column: str | None = None,
        streaming: bool = True,
        held_out_fraction: float = 0.01,
        shuffle_buffer: int = 0,
        patience: float = 300.0,
        skip_broken: int = 0,
        changed: str = "refuse",
        folder: Path | None = None,
    ) -> None:
        for option, value in (
            ("name", name),
            ("dataset_split", dataset_split),
            ("text_column", text_column),
        ):
            check_words(option, value)
        check_words("subset", subset, null=True)
        check_words("tokens_column", tokens_column, null=True)
        check_words("messages_column", messages_column, null=True)
        if tokens_column and messages_column:
            raise InvalidOption("messages_column", messages_column, "null beside tokens_column")
        if folder is not None and folder.resolve().is_relative_to(Path(str(name)).resolve()):
            allowed = "a data set that does not hold the run's own folder (hydra.run.dir)"
            raise InvalidOption("name", name, allowed)
        self.name, self.subset, self.dataset_split = name, subset, dataset_split
        self._column: Column = TextColumn(text_column)
        if tokens_column:
            self._column = TokensColumn(tokens_column)
        if messages_column:
            self._column = MessagesColumn(messages_column)
        self.streaming = check_bool("streaming", streaming)
        self.held_out_fraction = check_number("held_out_fraction", held_out_fraction, maximum=0.999)
        self.shuffle_buffer = check_int("shuffle_buffer", shuffle_buffer, 0)
        self.patience = check_number("patience", patience, above=True)
        self.skip_broken = check_int("skip_broken", skip_broken, 0)
        self.changed = check_choice("changed", changed, CHANGED)
        self._opened: Rows | None = None
        self._column_is_there = False
        self._broken: set[int] = set()
        self._n_empty, self._first_empty, self._farthest = 0, 0, 0

    def _open(self) -> Rows:
        """Return the data set, opened at the first call.

        Raises:
            InvalidOption: it cannot be loaded, or has no such column.
        """
        if self._opened is None:
            opened = open_rows(
                self.name, self.subset, self.dataset_split, self.streaming, self.patience
            )
            if opened.columns is not None:
                self._check_column(opened.columns)
            self._opened = opened
        return self._opened

    def _check_column(self, columns: tuple[str, ...]) -> None:
        if self._column.name not in columns:
            allowed = f"one of {', '.join(columns)}"
            raise InvalidOption(self._column.option, self._column.name, allowed)
        self._column_is_there = True

    def documents(
        self, split: Split, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[int, str | Document]]:
        """Yield one pass over the documents of a split.

        Raises:
            InvalidOption: the data set cannot be loaded, or its first row has no such column.
            RunError: a row is broken, and no more may be passed over; or reading fails.
        """
        rows = self._open().rows
        if self.shuffle_buffer and split == "train":
            rows = rows.map(numbered, with_indices=True)
            rows = rows.shuffle(seed=seed + epoch, buffer_size=self.shuffle_buffer)
        for cursor, row in enumerate(self._read(rows, start), start=start + 1):
            number = row.pop(NUMBER, cursor)
            if not (value := self._value(row, number)):
                continue
            rank = hash_fraction(self._column.content(value))
            if (rank < self.held_out_fraction) == (split == "held_out"):
                yield cursor, self._column.document(value, partial(self._pass_over, number))

    def _read(self, rows: Any, start: int) -> Iterator[dict[str, Any]]:
        """Yield the rows behind `start`, as long as they can be read."""
        if self._open().come_by_network:
            remaining = patiently(rows, start, self.patience, f"data.name={self.name}")
        else:
            remaining = iter(rows.skip(start))
        for number in itertools.count(start + 1):
            try:
                row = next(remaining, None)
            except Exception as error:  # of whichever library reads, unpacks or transfers the data
                raise RunError(f"{self._row(number)} cannot be read ({why(error)})") from error
            if row is None:
                return
            yield row

    def _row(self, number: int) -> str:
        return f"data.name={self.name}: row {number} of {self.dataset_split}"

    def _value(self, row: dict[str, Any], number: int) -> Any:
        """Return the document in the column of a row; nothing where it is none, which is noted."""
        problem, name = None, self._column.name
        if self._open().are_lines:
            row, problem = parsed(row["text"])
        if problem is None and row and not self._column_is_there:
            self._check_column(tuple(row))
        if problem is None and row and name not in row:
            problem = f"has no column {name} but {', '.join(row)}"
        value, wrong = self._column.read(row.get(name))
        problem = problem or wrong
        if problem is not None:
            self._pass_over(number, problem)
        elif not value:
            self._note_empty(number)
        self._farthest = max(self._farthest, number)
        return value if problem is None else None

    def _note_empty(self, number: int) -> None:
        """Count a row without text; in a later pass it is met again."""
        if number > self._farthest:
            self._n_empty += 1
            self._first_empty = self._first_empty or number

    def _pass_over(self, number: int, problem: str) -> None:
        """Note a broken row, or end the run where there are too many."""
        if number in self._broken:
            return
        if len(self._broken) >= self.skip_broken:
            raise RunError(
                f"{self._row(number)} {problem}; mend it, or let more rows than "
                f"data.skip_broken={self.skip_broken} be passed over"
            )
        self._broken.add(number)
        log.warning("%s %s: passed over", self._row(number), problem)

    def left_out(self) -> dict[str, dict[str, Any]]:
        """Rows passed over so far; shuffled ones without text are not all counted."""
        broken = LeftOut()
        for number in self._broken:
            broken.add(BROKEN, f"row {number}")
        empty = {"count": self._n_empty, "example": f"row {self._first_empty}"}
        return {**broken.summary(), **({NO_TEXT: empty} if self._n_empty else {})}

    def from_hub(self) -> list[HubRows]:
        """Return the data set, unless it is local."""
        path = Path(os.path.expanduser(str(self.name)))
        is_local = path.is_dir() or find_files(path)
        return [] if is_local else [HubRows("name", self.name, self.subset, self.dataset_split)]

    def describe(self) -> dict[str, Any]:
        """Number of files of a local data set, and a hash over `listing`."""
        listing = self.listing()
        return {"files": len(listing), "hash": hash_of(listing)} if listing else {}

    def listing(self) -> dict[str, Any]:
        """Size and CRC-32 of the first 64 KiB of every file of a local data set."""
        path = Path(os.path.expanduser(str(self.name)))
        inside = path.rglob("*") if path.is_dir() else find_files(path)
        files = sorted(file for file in inside if file.is_file())
        looks = {os.path.relpath(file, path.parent): look_at(file) for file in files}
        return {name: [look.size, look.crc32] for name, look in looks.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the rows that have been passed over as broken."""
        return {"broken": torch.tensor(sorted(self._broken), dtype=torch.int64)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Pass over those again, without counting them anew."""
        self._broken |= set(state["broken"].tolist()) if "broken" in state else set()


def numbered(row: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the row with its number in the stored order, from 1."""
    return {**row, NUMBER: index + 1}


def parsed(line: str) -> tuple[dict[str, Any], str | None]:
    """(row, what is wrong with it) of a line of JSON; a blank one is an empty row."""
    line = line.removeprefix("\ufeff")  # the mark with which Windows begins a file
    try:
        row = json.loads(line) if line.strip() else {}
    except (ValueError, RecursionError) as error:
        return {}, f"is no JSON ({error})"
    return (row, None) if isinstance(row, dict) else ({}, f"is no JSON object but {a(row)}")
