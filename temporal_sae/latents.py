"""The sparse form in which latents travel from the encoder to tracker, losses and decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from temporal_sae.kernels import selection


class Latents(NamedTuple):
    """The k candidates of each token; a slot is active when its value is > 0.

    `values` float [..., k] and `indices` int [..., k], with the leading shape of the activations:
    [tokens, k] in training. An index of -1 marks a slot that is empty because a token has fewer
    active latents than another; its value is 0.
    """

    values: Float[Tensor, "*tokens k"]
    indices: Int[Tensor, "*tokens k"]

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
            indices = selection.list_above(acts, zero)
            if at_most is None or indices.shape[1] <= at_most:
                return cls(acts.gather(1, indices.clamp(min=0)) * (indices >= 0), indices)
        values, indices = acts.topk(min(at_most, d_sae), dim=-1)
        active = values > 0
        return cls(values * active, torch.where(active, indices, -1))

    def largest(self, at_most: int) -> Latents:
        """Return the largest values of each token, if there are more than so many slots."""
        if self.values.shape[-1] <= at_most:
            return self
        values, slots = self.values.topk(at_most, dim=-1)
        return Latents(values, self.indices.gather(-1, slots))

    def to_dense(self, d_sae: int) -> Float[Tensor, "*tokens d_sae"]:
        """Return the same values at their places in a row of zeros."""
        dense = self.values.new_zeros(*self.values.shape[:-1], d_sae)
        return dense.scatter_add(-1, self.indices.clamp(min=0), self.values)

    def active_indices(self) -> Int[Tensor, "*tokens k"]:
        """Indices with -1 in every slot that is not active, as the tracker takes them."""
        return torch.where(self.values > 0, self.indices, -1)

    def l0(self) -> Float[Tensor, ""]:
        """Mean number of active latents per token."""
        return (self.values > 0).sum(-1).to(self.values.dtype).mean()

    def as_rows(self) -> Latents:
        """Return the latents of all tokens below each other, [tokens, k]."""
        return Latents(as_rows(self.values), as_rows(self.indices))

    def with_leading(self, shape: torch.Size) -> Latents:
        """Return the rows of [tokens, k] in a leading shape."""
        return Latents(with_leading(self.values, shape), with_leading(self.indices, shape))


def as_rows(x: Shaped[Tensor, "*tokens d"]) -> Shaped[Tensor, "rows d"]:
    """Return all vectors below each other; a matrix stays itself."""
    return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])


def with_leading(rows: Shaped[Tensor, "rows d"], shape: torch.Size) -> Shaped[Tensor, "*tokens d"]:
    """Give the matrix of `as_rows` its leading shape again."""
    return rows if len(shape) == 1 else rows.reshape(*shape, rows.shape[1])
