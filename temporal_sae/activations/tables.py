"""Rows that lie in tables: arrays in memory, mapped files, shards.

Tables are cut into blocks of rows. A block is read in its own order and belongs to one side, held
out or trained on, as a whole. Training reads the blocks in another random order in every pass,
since rows that lie together are often alike; the shuffle buffer mixes what is in them.
"""

from __future__ import annotations

import itertools
import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.activations.rows import Rows
from temporal_sae.activations.source import ROWS, ActivationSource
from temporal_sae.data import Split
from temporal_sae.data.sources import hash_fraction, shuffled
from temporal_sae.errors import RunError, check_int, check_number

log = logging.getLogger(__name__)

MOST_BLOCK_ROWS, FEWEST_BLOCKS = 1024, 20  # where nothing else is asked for
CHECKED_SEQUENCES = 256  # of held-out rows, looked at before a run: as many as `train` evaluates on


class Table(Protocol):
    """Rows under each other.

    Attributes:
        name: of the file, for messages and for the choice of what is held out.
        n_rows: how many.
        d_in: their width.
        segment_rows: rows that are read together whatever is asked for, so that blocks in them are
            read after each other; 1 where any row costs the same.
    """

    name: str
    n_rows: int
    d_in: int
    segment_rows: int

    def read(self, start: int, stop: int) -> Float[Tensor, "n d_in"]:
        """Return some rows, on the CPU.

        Raises:
            RunError: they cannot be read.
        """
        ...


class Block(NamedTuple):
    """Rows of a table that stay together."""

    number: int
    table: Table
    start: int
    stop: int


class TableSource(ActivationSource):
    """Activations in tables, which a subclass gives in `find_tables`.

    Args:
        held_out_fraction: share of the blocks kept for evaluation, in [0, 1).
        block_rows: rows in a block; None: 1024, or fewer where there would not be 20 blocks.
        device: where batches are.
        buffer_tokens, normalize, outliers, outlier_factor, prefetch: see `StreamOptions`.

    Raises:
        InvalidOption: an option is out of range.
    """

    def __init__(
        self,
        held_out_fraction: float = 0.1,
        block_rows: int | None = None,
        device: str | torch.device = "cpu",
        **mixing: Any,
    ) -> None:
        super().__init__(**mixing)
        self.held_out_fraction = check_number("held_out_fraction", held_out_fraction, maximum=0.999)
        self.block_rows = None if block_rows is None else check_int("block_rows", block_rows, 1)
        self.device = torch.device(device)
        self.dtype = torch.float32
        self.blocks: dict[Split, list[Block]] = {}
        self._is_checked = False

    @abstractmethod
    def find_tables(self) -> Sequence[Table]:
        """Return all tables, of which each has at least one row."""

    def open(self) -> None:
        """Find the tables, and divide their blocks.

        Raises:
            InvalidOption, RunError: there are none, or they do not go together.
        """
        if self.blocks:
            return
        tables = self.find_tables()
        self.d_in = tables[0].d_in
        for table in tables:
            if table.d_in != self.d_in:
                raise RunError(
                    f"{table.name}: its rows are {table.d_in} wide, those of {tables[0].name} "
                    f"{self.d_in}; files that are read together have one width"
                )
        self._rows_in_block = self.block_rows or rows_in_block(tables)
        blocks = list(self._blocks_of(tables))
        held_out = self._held_out_of(blocks)
        self.blocks = {
            "train": [block for block in blocks if block.number not in held_out],
            "held_out": [block for block in blocks if block.number in held_out],
        }

    def _held_out_of(self, blocks: Sequence[Block]) -> set[int]:
        """Numbers of the blocks with the lowest hashes; at least one where some are wanted."""
        if not self.held_out_fraction:
            return set()
        in_order = sorted(blocks, key=lambda b: hash_fraction(f"{b.table.name}/{b.start}"))
        n = max(1, round(self.held_out_fraction * len(blocks)))
        return {block.number for block in in_order[: min(n, len(blocks) - 1)]}

    def _blocks_of(self, tables: Sequence[Table]) -> Iterator[Block]:
        number = 0
        for table in tables:
            for start in range(0, table.n_rows, self._rows_in_block):
                yield Block(number, table, start, min(start + self._rows_in_block, table.n_rows))
                number += 1

    @property
    def rows_at_once(self) -> int:
        """Rows of a block."""
        return self._rows_in_block

    @property
    def rows_in_pass(self) -> int:
        """Rows that are trained on before any is read again."""
        return sum(block.stop - block.start for block in self.blocks["train"])

    def check(self, split: Split) -> None:
        """Refuse a split that has no rows, and held-out rows of which one is not finite.

        Of those, as many are read as an evaluation takes: it would find out after all training.
        """
        self.open()
        if not self.blocks[split]:
            n = sum(map(len, self.blocks.values()))
            share = f"held_out_fraction={self.held_out_fraction:g}"
            raise RunError(f"no rows are {WORDS[split]}: {share} of {n} block(s) of rows")
        if split == "held_out" and not self._is_checked:
            for _ in itertools.islice(self._sequences(0), CHECKED_SEQUENCES):
                pass
            self._is_checked = True

    def why_not(self, need: str) -> str | None:
        """Return why an evaluation cannot have what it needs.

        Raises:
            RunError: held-out rows cannot be read, which is no reason to go on without them.
        """
        self.open()
        if need == ROWS and self.blocks["held_out"]:
            self.check("held_out")
        return super().why_not(need)

    def in_order(self, split: Split, seed: int, epoch: int) -> list[Block]:
        """Return the blocks of a split in the order of a pass.

        Segments come in random order, and so do the blocks of each.
        """
        segments: dict[tuple[int, int], list[Block]] = {}
        for block in self.blocks[split]:
            segments.setdefault((id(block.table), block.start // block.table.segment_rows), [])
            segments[id(block.table), block.start // block.table.segment_rows].append(block)
        order = shuffled(list(segments.values()), seed, epoch)
        return [b for n, segment in enumerate(order) for b in shuffled(segment, seed + n, epoch)]

    def read_block(self, block: Block) -> Rows:
        """Return the rows of a block, float32 on the CPU.

        Raises:
            RunError: they cannot be read, or one of them is not finite.
        """
        x = block.table.read(block.start, block.stop).float()
        finite = x.isfinite().all(1)
        if not bool(finite.all()):
            row = block.start + int((~finite).nonzero()[0, 0])
            raise RunError(f"{block.table.name}: row {row} holds a number that is not finite")
        places = torch.full((len(x), 3), -1, dtype=torch.int32)
        places[:, 1] = block.number
        places[:, 2] = torch.arange(len(x))
        return Rows(x, places)

    def describe(self) -> dict[str, Any]:
        """Return the options that decide which rows are held out."""
        return {"held_out_fraction": self.held_out_fraction, "block_rows": self.block_rows}

    def reader(self, seed: int) -> TableReader:
        """Return the training rows, block by block, without end."""
        self.open()
        return TableReader(self, seed)

    def held_out(self, n_sequences: int, batch_sequences: int, seed: int = 0) -> Iterator[Rows]:
        """Yield held-out rows; a sequence is 128 rows of a block, or what is left of it."""
        self.open()
        waiting: list[Rows] = []
        for n, rows in enumerate(self._sequences(seed)):
            if n == n_sequences:
                break
            waiting.append(rows)
            if len(waiting) == batch_sequences:
                yield self._together(waiting)
                waiting = []
        if waiting:
            yield self._together(waiting)

    def _sequences(self, seed: int) -> Iterator[Rows]:
        for block in self.in_order("held_out", seed, 0):
            yield from self.read_block(block).split(self.sequence_rows)

    def _together(self, sequences: list[Rows]) -> Rows:
        there = torch.zeros(len(sequences), self.sequence_rows, dtype=torch.bool)
        for marks, rows in zip(there, sequences, strict=True):
            marks[: len(rows)] = True
        x = torch.cat([rows.x for rows in sequences]).to(self.device)
        places = torch.cat([rows.places for rows in sequences if rows.places is not None])
        return Rows(x, places.to(self.device), there.to(self.device))


def rows_in_block(tables: Sequence[Table]) -> int:
    """Return 1024, or fewer where there would be too few blocks to hold some of them out."""
    n_blocks = sum(-(-table.n_rows // MOST_BLOCK_ROWS) for table in tables)
    if n_blocks >= FEWEST_BLOCKS:
        return MOST_BLOCK_ROWS
    return max(1, sum(table.n_rows for table in tables) // FEWEST_BLOCKS)


WORDS = {"train": "left to train on", "held_out": "held out"}


class TableReader:
    """Blocks of a source in random order, pass after pass.

    Args:
        source: open.
        seed: fixes the order.
    """

    def __init__(self, source: TableSource, seed: int) -> None:
        self.source, self.seed = source, seed
        self._begin(0, 0)

    def _begin(self, epoch: int, cursor: int) -> None:
        self.epoch, self.cursor = epoch, cursor
        self._order = self.source.in_order("train", self.seed, epoch)

    def read(self) -> Rows:
        """Return the next block."""
        if self.cursor == len(self._order):
            if self.epoch == 0:
                n = self.source.rows_in_pass
                told = "all %s training rows have been read into the shuffle buffer"
                log.info(f"{told}; reading begins again", f"{n:,}")
            self._begin(self.epoch + 1, 0)
        rows = self.source.read_block(self._order[self.cursor])
        self.cursor += 1
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the pass, and of the blocks that have been read in it."""
        return {"epoch": self.epoch, "cursor": self.cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            RunError: these tables have no such place.
        """
        epoch, cursor = int(state["epoch"]), int(state["cursor"])
        n = len(self._order)
        if epoch < 0 or not 0 <= cursor <= n:
            raise RunError(
                f"{self.source.name}: block {cursor} of pass {epoch}, at which the checkpoint goes "
                f"on, does not exist; these are {n} blocks for training, so continue with the data "
                "and options of that run, or choose another folder"
            )
        self._begin(epoch, cursor)
