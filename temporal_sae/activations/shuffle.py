"""A buffer that mixes a stream of rows: neighbours in the text land in different batches."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor


class ShuffleBuffer:
    """Rows come in as the text gives them and leave in random order.

    Each draw takes rows from everywhere in the buffer, so with n rows held a row stays for n rows
    of output on average, with an exponential tail: neighbours in the text end up about n rows
    apart (their mean distance in the output is n, measured in the tests).

    Args:
        capacity: rows to hold before drawing begins.
        seed: fixes the order, on each kind of device another one.
        device: where the rows are.
        beyond: rows that may come at once, for which there is room above the capacity.
    """

    def __init__(
        self, capacity: int, seed: int, device: str | torch.device = "cpu", beyond: int = 0
    ) -> None:
        self.capacity, self.device, self.beyond = capacity, torch.device(device), beyond
        self.count = 0
        self._rows: Tensor | None = None
        self._generator = torch.Generator(self.device).manual_seed(seed)

    @property
    def full(self) -> bool:
        """True where enough rows are held to draw."""
        return self.count >= self.capacity

    def add(self, rows: Shaped[Tensor, "n ..."]) -> None:
        """Append rows; the storage grows to hold them."""
        end = self.count + rows.shape[0]
        if self._rows is None or end > self._rows.shape[0]:
            grown = rows.new_empty((max(end, self.capacity + self.beyond), *rows.shape[1:]))
            if self._rows is not None:
                grown[: self.count] = self._rows[: self.count]
            self._rows = grown
        self._rows[self.count : end] = rows
        self.count = end

    def draw(self, n: int) -> Shaped[Tensor, "n ..."]:
        """Take `n` random rows out; rows from the end fill the holes.

        Every size is known beforehand, so that a GPU need not be waited for: the drawn places in
        ascending order begin with the holes, the last `n` rows with the drawn ones put last begin
        with the rows that fill them, and what is written past both lands behind the new end.
        """
        if self._rows is None or n > self.count:
            raise ValueError(f"cannot draw {n} rows from a buffer of {self.count}")
        order = torch.randperm(self.count, generator=self._generator, device=self.device)
        places = order[:n].sort().values
        drawn = self._rows[order[:n]]
        rest = self.count - n
        is_drawn = torch.zeros(self.count, dtype=torch.bool, device=self.device)
        is_drawn[places] = True
        movers = rest + is_drawn[rest:].to(torch.uint8).argsort(stable=True)
        self._rows[places] = self._rows[movers]
        self.count = rest
        return drawn

    def held(self) -> Shaped[Tensor, "count ..."]:
        """The rows in the buffer, as a view."""
        if self._rows is None:
            raise ValueError("the buffer is empty")
        return self._rows[: self.count]

    def state_dict(self) -> dict[str, Any]:
        """Rows and random state; exact."""
        state: dict[str, Any] = {"generator": self._generator.get_state()}
        return state if self._rows is None else {**state, "rows": self.held()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self._generator.set_state(state["generator"])
        self.count, self._rows = 0, None
        if "rows" in state:
            self.add(state["rows"].to(self.device))
