"""The sparse form in which latents travel from the encoder to tracker, losses and decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Latents(NamedTuple):
    """The k candidates of each token; a slot is active when its value is > 0.

    `values` float [tokens, k] and `indices` int [tokens, k]. An index of -1 marks a slot that is
    empty because a token has fewer active latents than another; its value is 0.
    """

    values: Float[Tensor, "tokens k"]
    indices: Int[Tensor, "tokens k"]

    @classmethod
    def from_dense(cls, acts: Float[Tensor, "tokens d_sae"]) -> Latents:
        """Keep the positive entries, left-aligned; k is the largest number in any token.

        The width depends on the values, so on a GPU this waits for them.
        """
        k = max(1, int((acts > 0).sum(-1).max()))
        values, indices = acts.topk(k, dim=-1, sorted=False)
        active = values > 0
        return cls(values * active, torch.where(active, indices, -1))

    def to_dense(self, d_sae: int) -> Float[Tensor, "tokens d_sae"]:
        """The same values at their places in a row of zeros."""
        dense = self.values.new_zeros(self.values.shape[0], d_sae)
        return dense.scatter_add(1, self.indices.clamp(min=0), self.values)

    def active_indices(self) -> Int[Tensor, "tokens k"]:
        """Indices with -1 in every slot that is not active, as the tracker takes them."""
        return torch.where(self.values > 0, self.indices, -1)

    def l0(self) -> Float[Tensor, ""]:
        """Mean number of active latents a token."""
        return (self.values > 0).sum(-1).to(self.values.dtype).mean()
