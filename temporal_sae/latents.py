"""The sparse form in which latents travel from the encoder to tracker, losses and decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels import step_kernels_for


class Latents(NamedTuple):
    """The k candidates of each token; a slot is active when its value is > 0.

    `values` float [tokens, k] and `indices` int [tokens, k]. An index of -1 marks a slot that is
    empty because a token has fewer active latents than another; its value is 0.
    """

    values: Float[Tensor, "tokens k"]
    indices: Int[Tensor, "tokens k"]

    @classmethod
    def from_dense(cls, acts: Float[Tensor, "tokens d_sae"], at_most: int | None = None) -> Latents:
        """Keep the positive entries, left-aligned; k is the largest number in any token.

        Args:
            at_most: keep only so many, the largest. On a GPU k is then always that (or d_sae), so
                that nothing has to wait for the values.
        """
        d_sae = acts.shape[1]
        if at_most is None or acts.device.type == "cpu":
            zero = acts.new_zeros(()).expand(d_sae)
            indices = step_kernels_for(acts.device).list_above(acts, zero)
            if at_most is None or indices.shape[1] <= at_most:
                return cls(acts.gather(1, indices.clamp(min=0)) * (indices >= 0), indices)
        values, indices = acts.topk(min(at_most, d_sae), dim=-1)
        active = values > 0
        return cls(values * active, torch.where(active, indices, -1))

    def largest(self, at_most: int) -> Latents:
        """The largest values of each token, if there are more than so many slots."""
        if self.values.shape[1] <= at_most:
            return self
        values, slots = self.values.topk(at_most, dim=-1)
        return Latents(values, self.indices.gather(1, slots))

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
