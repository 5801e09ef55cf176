"""The gradient of a matrix of which few rows have one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from temporal_sae.kernels import overlap

ROOM = 4096  # rows that are added for those to come, lest everything is copied again


class RowGradient:
    """The gradient of a matrix [F, d] that holds the rows it has been given, all others being 0.

    Args:
        n_rows: F.
        width: d.

    Attributes:
        rows: int64 [n], distinct.
        places: int64 [F], where each row is among those; -1 for the others.
    """

    def __init__(self, n_rows: int, width: int) -> None:
        self.places = torch.full((n_rows,), -1, dtype=torch.int64)
        self.rows = torch.empty(0, dtype=torch.int64)
        self._held = torch.empty(0, width)

    @property
    def values(self) -> Float[Tensor, "n d"]:
        """The gradient of each of `rows`."""
        return self._held[: len(self.rows)]

    def add(self, rows: Int[Tensor, " m"], gradients: Float[Tensor, "m d"]) -> None:
        """Add to some rows, of which one may come several times.

        The first ones are kept as they are given, where they ascend.
        """
        if len(self.rows) == 0 and bool((rows.diff() > 0).all()):
            self.rows, self._held = rows, gradients
            self.places[rows] = torch.arange(len(rows))
            return
        self._make_room(rows[self.places[rows] < 0].unique())
        overlap.add_rows(self._held, self.places[rows], gradients)

    def add_all(self, gradient: Float[Tensor, "F d"]) -> None:
        """Add to every row, all of which are held then."""
        self.add(torch.arange(len(self.places)), gradient)

    def _make_room(self, new: Int[Tensor, " new"]) -> None:
        n, end = len(self.rows), len(self.rows) + len(new)
        if end > len(self._held):
            grown = self._held.new_empty(end + ROOM, self._held.shape[1])
            grown[:n] = self.values
            self._held = grown
        self._held[n:end] = 0
        self.places[new] = torch.arange(n, end)
        self.rows = torch.cat([self.rows, new])

    def clear(self) -> None:
        """Hold nothing."""
        self.places[self.rows] = -1
        self.rows, self._held = self.rows[:0], self._held.new_empty(0, self._held.shape[1])


class RowGradients(NamedTuple):
    """The gradients of an SAE's matrices by latent, each [F, d_in]."""

    W_enc: RowGradient
    W_dec: RowGradient


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, rows: Tensor, into: RowGradient) -> Tensor:
        ctx.rows, ctx.into = rows, into
        return embedding(rows, matrix)

    @staticmethod
    def backward(ctx: Any, by_rows: Tensor) -> tuple[None, None, None]:
        reached = by_rows.any(-1)
        ctx.into.add(ctx.rows[reached], by_rows[reached])
        return None, None, None


def take_rows(
    matrix: Float[Tensor, "F d"], rows: Int[Tensor, " n"], into: RowGradient | None
) -> Float[Tensor, "n d"]:
    """Return some distinct rows, whose gradient goes into `into` where that is given."""
    if into is None:
        return embedding(rows, matrix)
    taken: Tensor = _Taken.apply(matrix, rows, into)
    return taken
