"""Rows of activations with the places that they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temporal_sae.data.packing import DOCUMENT, KIND, POSITION, TOKEN
from temporal_sae.errors import RunError

__all__ = [
    "DOCUMENT",
    "KIND",
    "POSITION",
    "TOKEN",
    "ActivationBatch",
    "EndOfRows",
    "Reader",
    "Rows",
]


@dataclass(frozen=True)
class Rows:
    """Activations, shuffled or in stream order.

    Attributes:
        x: the activations.
        places: (token id, number of the document, position in the document) of each row, int32;
            -1 for what is unknown. None: nothing is known of any row.
        sequences: of held-out rows in stream order, the positions of each sequence that the rows
            are, row by row; a sequence is what stays together when intervals are estimated.
    """

    x: Float[Tensor, "n d_in"]
    places: Int[Tensor, "n 3"] | None = None
    sequences: Bool[Tensor, "n_sequences length"] | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def split(self, n: int) -> Iterator[Rows]:
        """Yield the rows in parts of `n`, the last one shorter."""
        for start in range(0, len(self), n):
            yield self[slice(start, start + n)]

    def __getitem__(self, which: Any) -> Rows:
        """Return the rows that a slice, a mask or indices choose."""
        return Rows(self.x[which], None if self.places is None else self.places[which])

    def scaled(self, scale: float) -> Rows:
        """Return the same rows in float32, divided by `scale`."""
        return Rows(self.x.float() / scale, self.places)

    def to(self, device: torch.device) -> Rows:
        """Return the same rows on a device."""
        places = None if self.places is None else self.places.to(device, non_blocking=True)
        return Rows(self.x.to(device), places)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors by name, for a checkpoint."""
        return {"x": self.x} | ({} if self.places is None else {"places": self.places})

    @classmethod
    def from_state(cls, state: Any, device: torch.device) -> Rows:
        """Return the rows of a `state_dict`; a state of before 0.2 has the activations alone."""
        if not isinstance(state, Tensor):
            return cls(**state).to(device)
        return cls(state, torch.full((len(state), 3), -1, dtype=torch.int32)).to(device)


@dataclass(frozen=True)
class ActivationBatch:
    """A shuffled batch and, where asked for, the rows read since the last one in stream order."""

    rows: Rows
    ordered: tuple[Rows, ...] = ()

    @property
    def x(self) -> Float[Tensor, "batch d_in"]:
        """The shuffled activations."""
        return self.rows.x


class EndOfRows(RunError):
    """A reader has no more rows.

    Args:
        n_rows: that it has given.
    """

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows
        super().__init__(f"the activations have ended after {n_rows:,} rows; train on fewer tokens")


class Reader(Protocol):
    """Rows in stream order that can be stopped and continued to the bit."""

    def read(self) -> Rows:
        """Return the next rows, at least one.

        Raises:
            RunError: they cannot be read; the same ones are then still to come.
            EndOfRows: there are no more.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
