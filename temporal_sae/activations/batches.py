"""Activations that somebody else's code hands out, batch by batch."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.activations.arrays import ArrayTable
from temporal_sae.activations.rows import EndOfRows, Rows
from temporal_sae.activations.source import ActivationSource
from temporal_sae.data import Split
from temporal_sae.errors import RunError, check_int


class ActivationBatches(ActivationSource):
    """Rows of an iterable of batches, in its order.

    The first rows are held out. A list or another sequence, whose order is fixed, is read again
    where it ends; anything else is read once, since a second pass might give held-out rows. A run
    that is continued reads the iterable from its beginning and leaves out what it has had, so a
    continued one needs an iterable that begins anew.

    Args:
        batches: arrays or tensors of floats [n, d_in], n of any size; or lists of one of these, as
            a `DataLoader` of a `TensorDataset` gives them.
        held_out_rows: rows that are held out.
        device: where batches of the stream are.
        mixing: see `StreamOptions`.

    Raises:
        InvalidOption: an option is out of range.
    """

    name = "an iterable of batches"

    def __init__(
        self,
        batches: Iterable[Any],
        held_out_rows: int = 4096,
        device: str | torch.device = "cpu",
        **mixing: Any,
    ) -> None:
        super().__init__(**mixing)
        self.batches = batches
        self.held_out_rows = check_int("held_out_rows", held_out_rows, 0)
        self.device, self.dtype = torch.device(device), torch.float32
        self._held_out: list[Tensor] | None = None
        self._rest: Iterator[Tensor] = iter(())

    def open(self) -> None:
        """Read what is held out, and the batch after it.

        Raises:
            RunError: there is nothing else.
        """
        if self._held_out is not None:
            return
        self._held_out = []
        rows = self._rows(self._held_out)
        first = next(rows, None)
        if first is None:
            raise RunError(
                f"{self.name}: holds {sum(map(len, self._held_out))} rows, of which "
                f"{self.held_out_rows} are held out"
            )
        self.d_in = first.shape[1]
        self._rest = chain([first], rows)

    def _rows(self, held_out: list[Tensor]) -> Iterator[Float[Tensor, "n d_in"]]:
        """Yield one pass over the rows that are trained on; add the others to `held_out`."""
        width, n_left = None, self.held_out_rows
        for number, batch in enumerate(self.batches):
            table = self._table(batch, number)
            x = table.read(0, table.n_rows)
            width = width or table.d_in
            if table.d_in != width:
                told = f"is {table.d_in} wide, the first one {width}"
                raise RunError(f"{self.name}: batch {number} {told}")
            if not bool(x.isfinite().all()):
                raise RunError(f"{self.name}: batch {number} holds a number that is not finite")
            kept, x = x[:n_left], x[n_left:]
            n_left -= len(kept)
            held_out += [kept] if len(kept) else []
            if len(x):
                yield x

    def _table(self, batch: Any, number: int) -> ArrayTable:
        if isinstance(batch, (list, tuple)) and len(batch) == 1:
            batch = batch[0]
        if not isinstance(batch, (Tensor, np.ndarray)):
            told = f"batch {number} is a {type(batch).__name__}; batches are tensors or arrays"
            raise RunError(f"{self.name}: {told} [n, d_in]")
        return ArrayTable(batch)

    @property
    def rows_in_pass(self) -> int | None:
        """Rows of a sequence that are not held out; None where the length is not known."""
        if not self.begins_anew:
            return None
        tables = [self._table(batch, number) for number, batch in enumerate(self.batches)]
        return max(0, sum(table.n_rows for table in tables) - self.held_out_rows)

    @property
    def begins_anew(self) -> bool:
        """True where a further pass gives the same rows."""
        return isinstance(self.batches, Sequence)

    def describe(self) -> dict[str, Any]:
        """Return how many rows are held out, and a checksum of them."""
        checksum = 0
        for x in self._held_out or ():
            checksum = zlib.crc32(x.numpy().tobytes(), checksum)
        return {"held_out_rows": self.held_out_rows, "checksum": checksum}

    def check(self, split: Split) -> None:
        """Refuse a split without rows."""
        self.open()
        if split == "held_out" and not self._held_out:
            raise RunError("no rows are held out: held_out_rows=0")

    def reader(self, seed: int) -> BatchesReader:
        """Return the rows after those that are held out; their order is the iterable's."""
        self.open()
        rest, self._rest = self._rest, iter(())
        return BatchesReader(self, rest)

    def further_pass(self) -> Iterator[Tensor]:
        """Return the rows that are trained on from the beginning, where they can be had again."""
        return self._rows([]) if self.begins_anew else iter(())

    def held_out(self, n_sequences: int, batch_sequences: int, seed: int = 0) -> Iterator[Rows]:
        """Yield the first rows; a sequence is 128 of them, and what is left over is not used."""
        self.open()
        x = torch.cat(self._held_out or [torch.empty(0, self.d_in)])
        length = min(self.sequence_rows, max(1, len(x)))
        n = min(n_sequences, len(x) // length)
        for part in x[: n * length].split(batch_sequences * length):
            there = torch.ones(len(part) // length, length, dtype=torch.bool, device=self.device)
            yield Rows(part.to(self.device), None, there)


class BatchesReader:
    """The batches, pass after pass or until they end.

    Args:
        source: the iterable.
        rows: what is left of it.
    """

    def __init__(self, source: ActivationBatches, rows: Iterator[Tensor]) -> None:
        self.source, self.rows = source, rows
        self.n_rows = 0

    def read(self) -> Rows:
        """Return the next batch.

        Raises:
            EndOfRows: there is none.
        """
        x = next(self.rows, None)
        if x is None:
            self.rows = self.source.further_pass()
            x = next(self.rows, None)
        if x is None:
            raise EndOfRows(self.n_rows)
        self.n_rows += len(x)
        return Rows(x)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows that have been read."""
        return {"rows": self.n_rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Read on from there; everything before in this pass is read again and left out."""
        if n := self.source.rows_in_pass:
            self.n_rows = int(state["rows"]) // n * n
        while self.n_rows < int(state["rows"]):
            self.read()
        if self.n_rows != int(state["rows"]):
            raise RunError(f"{self.source.name}: its batches are not those of the checkpoint")
