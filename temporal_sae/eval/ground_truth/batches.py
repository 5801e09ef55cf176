"""Rows with what is active in them: features, and the latents of an SAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.activations import Rows
from temporal_sae.latents import Latents


@dataclass(frozen=True)
class Active:
    """Features or latents that are active in the rows of a batch.

    Attributes:
        values: of all in each row, 0 for what is not active, [rows, n].
        row: of each that is active, int64 [n_active].
        which: it is, int64 [n_active].
    """

    values: Float[Tensor, "rows n"]
    row: Int[Tensor, " n_active"]
    which: Int[Tensor, " n_active"]

    @classmethod
    def of(cls, latents: Latents, n: int) -> Active:
        """Take those with a value above 0."""
        row, slot = (latents.values > 0).nonzero(as_tuple=True)
        which = latents.indices[row, slot].long()
        values = latents.values.new_zeros(len(latents.values), n)
        values[row, which] = latents.values[row, slot]
        return cls(values, row, which)

    def at(self, row: Int[Tensor, " m"], which: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Return values, 0 where `which` is -1."""
        return self.values[row, which.clamp(min=0)] * (which >= 0)

    def count(self, chosen: Tensor | None = None) -> Int[Tensor, " n"]:
        """Return in how many rows each is active; of the `chosen` firings alone, a mask."""
        which = self.which if chosen is None else self.which[chosen]
        return torch.bincount(which, minlength=self.values.shape[1])


class Batch(NamedTuple):
    """Held-out rows, and the features that fire in them."""

    rows: Rows
    features: Active

    @classmethod
    def of(cls, pair: tuple[Rows, Latents], n_features: int) -> Batch:
        """Take what a source yields, once for all SAEs."""
        rows, features = pair
        return cls(rows, Active.of(features, n_features))
