"""Sparse products in plain torch: the meaning of the operations of this group.

`indices` is int64 [B, K], the active latents of each token, -1 in empty slots anywhere; `values`
float32 [B, K] lie beside them and are 0 in empty slots. The other back ends never make anything of
the size B x K x d, which this one does for a block of tokens at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

TOKENS_AT_ONCE = 64


class ByLatent(NamedTuple):
    """Slots in order of their latents: those of latent i are slots[starts[i]:starts[i + 1]].

    A slot is its place in the flat [B, K]; within a latent they ascend. Past the last start there
    may be entries without meaning.
    """

    starts: Int[Tensor, " F+1"]
    slots: Int[Tensor, " slots"]


def list_by_latent(indices: Int[Tensor, "B K"], d_sae: int) -> ByLatent:
    """Transpose the lists; both weight gradients are summed by the result."""
    latents = torch.where(indices >= 0, indices, d_sae).flatten()
    latents, slots = latents.sort(stable=True)
    starts = torch.searchsorted(latents, torch.arange(d_sae + 1, device=latents.device))
    return ByLatent(starts, slots)


def decode_rows(
    values: Float[Tensor, "B K"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B d"]:
    """Return Σ_s values[b, s] W[indices[b, s]]."""
    out = [
        torch.bmm(v[:, None], W[i.clamp(min=0)])[:, 0]
        for v, i in zip(
            (values * (indices >= 0)).split(TOKENS_AT_ONCE),
            indices.split(TOKENS_AT_ONCE),
            strict=True,
        )
    ]
    return torch.cat(out) if out else values.new_zeros(0, W.shape[1])


def dot_rows(
    G: Float[Tensor, "B d"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B K"]:
    """Return G[b] · W[indices[b, s]], 0 in empty slots."""
    out = [
        torch.bmm(W[i.clamp(min=0)], g[..., None])[..., 0]
        for g, i in zip(G.split(TOKENS_AT_ONCE), indices.split(TOKENS_AT_ONCE), strict=True)
    ]
    return (torch.cat(out) if out else G.new_zeros(indices.shape)) * (indices >= 0)


def sum_by_latent(
    lists: ByLatent, values: Float[Tensor, "B K"], X: Float[Tensor, "B d"]
) -> Float[Tensor, "F d"]:
    """Return rows i of Σ values[b, s] X[b] over the slots (b, s) of latent i; 0 without any."""
    starts, slots = lists
    sizes = starts.diff()
    slots = slots[: int(starts[-1])]
    latents = torch.repeat_interleave(torch.arange(len(sizes), device=slots.device), sizes)
    out = X.new_zeros(len(sizes), X.shape[1])
    for part in torch.arange(len(slots), device=slots.device).split(TOKENS_AT_ONCE * 64):
        slot = slots[part]
        out.index_add_(0, latents[part], values.flatten()[slot, None] * X[slot // values.shape[1]])
    return out


def decode_gradients(
    lists: ByLatent,
    values: Float[Tensor, "B K"],
    indices: Int[Tensor, "B K"],
    G: Float[Tensor, "B d"],
    W: Float[Tensor, "F d"],
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "F d"]]:
    """Return the gradients of `decode_rows` by values and by W, where G is that by its result."""
    return dot_rows(G, indices, W), sum_by_latent(lists, values, G)
