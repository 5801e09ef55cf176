"""Activations that somebody else's code hands out, batch by batch, once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.activations.arrays import ArrayTable
from temporal_sae.activations.rows import EndOfRows, Rows
from temporal_sae.activations.source import ActivationSource
from temporal_sae.data import Split
from temporal_sae.errors import RunError, check_int


class ActivationBatches(ActivationSource):
    """Rows of an iterable of batches, in its order, each read once.

    The first rows are held out. A run that is continued reads the iterable from its beginning and
    leaves out what it has had, so a continued one needs an iterable that begins anew.

    Args:
        batches: arrays or tensors of floats [n, d_in], n of any size.
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
        rows = self._rows()
        self._held_out, n_left = [], self.held_out_rows
        for x in rows:
            self.d_in = x.shape[1]
            kept, rest = x[:n_left], x[n_left:]
            self._held_out += [kept] if len(kept) else []
            n_left -= len(kept)
            if len(rest):
                self._rest = chain_of(rest, rows)
                return
        raise RunError(
            f"{self.name}: holds {self.held_out_rows - n_left} rows, of which "
            f"{self.held_out_rows} are held out"
        )

    def _rows(self) -> Iterator[Float[Tensor, "n d_in"]]:
        width = None
        for number, batch in enumerate(self.batches):
            table = ArrayTable(batch)
            x = table.read(0, table.n_rows)
            width = width or table.d_in
            if table.d_in != width:
                told = f"is {table.d_in} wide, the first one {width}"
                raise RunError(f"{self.name}: batch {number} {told}")
            if not bool(x.isfinite().all()):
                raise RunError(f"{self.name}: batch {number} holds a number that is not finite")
            yield x

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
    """The batches, until they end.

    Args:
        source: the iterable.
        rows: what is left of it.
    """

    def __init__(self, source: ActivationBatches, rows: Iterator[Tensor]) -> None:
        self.source, self.rows, self.n_rows = source, rows, 0

    def read(self) -> Rows:
        """Return the next batch.

        Raises:
            EndOfRows: there is none.
        """
        x = next(self.rows, None)
        if x is None:
            raise EndOfRows(self.n_rows)
        self.n_rows += len(x)
        return Rows(x)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows that have been read."""
        return {"rows": self.n_rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Read on from there; everything before is read again and left out."""
        while self.n_rows < int(state["rows"]):
            self.read()
        if self.n_rows != int(state["rows"]):
            raise RunError(f"{self.source.name}: its batches are not those of the checkpoint")


def chain_of(first: Tensor, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield the first, and then the others."""
    yield first
    yield from rest
