"""A buffer that mixes a stream of rows: neighbours in the stream land in different batches."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae.activations.rows import Rows


class ShuffleBuffer:
    """Rows come in as they are read and leave in random order, or in theirs, each with its place.

    Each draw takes rows from everywhere in the buffer, so with n rows held a row stays for n rows
    of output on average, with an exponential tail: neighbours in the stream end up about n rows
    apart (their mean distance in the output is n, measured in the tests).

    A run of known length ends with the rows that the buffer holds (`LastRows`): they leave in
    random order while none come in, so that the rows of its end are drawn from a shrinking pool.
    Among these any two are as likely to be neighbours.

    Args:
        capacity: rows to hold before drawing begins.
        seed: fixes the order, on each kind of device another one.
        device: where the rows are.
        beyond: rows that may come at once, for which there is room above the capacity.
        mixes: false: rows leave in the order in which they have come.
    """

    def __init__(
        self,
        capacity: int,
        seed: int,
        device: str | torch.device = "cpu",
        beyond: int = 0,
        mixes: bool = True,
    ) -> None:
        self.capacity, self.device, self.beyond = capacity, torch.device(device), beyond
        self.mixes = mixes
        self.count = 0
        self._only_counts = False
        self._columns: list[Tensor] = []  # activations, and places where there are any
        self._generator = torch.Generator(self.device).manual_seed(seed)

    @property
    def full(self) -> bool:
        """True where enough rows are held to draw."""
        return self.count >= self.capacity

    def add(self, rows: Rows) -> None:
        """Append rows; the storage grows to hold them."""
        if self._only_counts:
            self.count += len(rows)
            return
        columns = [rows.x, *([] if rows.places is None else [rows.places])]
        end = self.count + len(rows)
        if not self._columns:
            self._columns = [column[:0] for column in columns]
        if end > len(self._columns[0]):
            size = max(end, self.capacity + self.beyond)
            self._columns = [self._grown(column, size) for column in self._columns]
        for stored, column in zip(self._columns, columns, strict=True):
            stored[self.count : end] = column
        self.count = end

    def _grown(self, column: Tensor, size: int) -> Tensor:
        grown = column.new_empty((size, *column.shape[1:]))
        grown[: self.count] = column[: self.count]
        return grown

    def draw(self, n: int) -> Rows:
        """Take `n` random rows out, or the first ones; rows from the end fill the holes.

        Every size is known beforehand, so that a GPU need not be waited for: the drawn places in
        ascending order begin with the holes, the last `n` rows with the drawn ones put last begin
        with the rows that fill them, and what is written past both lands behind the new end.
        """
        if n > self.count:
            raise ValueError(f"cannot draw {n} rows from a buffer of {self.count}")
        if self._only_counts:
            self.count -= n
            return Rows(*(column[:0] for column in self._columns))
        if not self.mixes:
            drawn = Rows(*(column[:n].clone() for column in self._columns))
            for column in self._columns:
                column[: self.count - n] = column[n : self.count].clone()
            self.count -= n
            return drawn
        order = torch.randperm(self.count, generator=self._generator, device=self.device)
        places = order[:n].sort().values
        drawn = Rows(*(column[order[:n]] for column in self._columns))
        rest = self.count - n
        is_drawn = torch.zeros(self.count, dtype=torch.bool, device=self.device)
        is_drawn[places] = True
        movers = rest + is_drawn[rest:].to(torch.uint8).argsort(stable=True)
        for column in self._columns:
            column[places] = column[movers]
        self.count = rest
        return drawn

    def held(self) -> Rows:
        """Return the rows in the buffer, as views."""
        if not self._columns:
            raise ValueError("the buffer is empty")
        return Rows(*(column[: self.count] for column in self._columns))

    def order_of_all(self) -> Int[Tensor, " count"]:
        """Return a random order of the rows that are held, or theirs; draws are as before."""
        if not self.mixes:
            return torch.arange(self.count, device=self.device)
        generator = torch.Generator(self.device)
        generator.set_state(self._generator.get_state())
        return torch.randperm(self.count, generator=generator, device=self.device)

    def hand_over(self) -> None:
        """Leave the rows to whoever has them, and from now on only count what comes and leaves."""
        self._only_counts = True
        self._columns = [column[:0].clone() for column in self._columns]

    def clear(self) -> None:
        """Hold nothing."""
        self.count, self._columns, self._only_counts = 0, [], False

    def state_dict(self) -> dict[str, Any]:
        """Rows and random state; exact."""
        state: dict[str, Any] = {"generator": self._generator.get_state()}
        return state | ({"rows": self.held().state_dict()} if self._columns else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self._generator.set_state(state["generator"])
        self.clear()
        if "rows" in state:
            self.add(Rows.from_state(state["rows"], self.device))
