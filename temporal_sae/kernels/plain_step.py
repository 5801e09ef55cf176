"""The operations of a sparse training step in plain torch; other versions are tested against it.

`indices` is int64 [B, K], the latents that a token is about, -1 in empty slots anywhere; `values`
float32 [B, K] lie beside them and are 0 in empty slots. Nothing of the size B x K x d is ever made
by the compiled versions, which this one does a block of tokens at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

TOKENS_AT_ONCE = 64
EPSILON = 1e-12  # the least norm that a decoder row is divided by


class ByLatent(NamedTuple):
    """Slots in order of their latents: those of latent i are slots[starts[i]:starts[i + 1]].

    A slot is its place in the flat [B, K]; within a latent they ascend. Past the last start there
    may be entries without meaning.
    """

    starts: Int[Tensor, " F+1"]
    slots: Int[Tensor, " slots"]


class AdamStep(NamedTuple):
    """The numbers of one step of Adam (Kingma & Ba 2015, arXiv 1412.6980).

    `correction1` and `correction2` are 1 - β^t.
    """

    lr: float
    beta1: float
    beta2: float
    eps: float
    correction1: float
    correction2: float


def select_topk(pre_acts: Float[Tensor, "B F"], k: int) -> tuple[Tensor, Tensor]:
    """Values float32 and indices [B, k] of the k largest positive entries of each row.

    Where there are fewer, slots at the end have value 0 and index -1. NaN counts as the largest.
    """
    values, indices = pre_acts.float().topk(k, dim=-1)
    empty = values <= 0
    return values.masked_fill(empty, 0.0), indices.masked_fill(empty, -1)


def kth_largest(pre_acts: Float[Tensor, "B F"], n: int) -> Float[Tensor, ""]:
    """The n-th largest of all positive entries; 0 where there are fewer."""
    return pre_acts.float().flatten().topk(n).values[-1].clamp(min=0)


def list_above(
    pre_acts: Float[Tensor, "B F"], thresholds: Float[Tensor, " F"]
) -> Int[Tensor, "B K"]:
    """Places of the entries of each row that exceed the thresholds (or are NaN), ascending.

    K is the largest number in any row, at least 1; -1 after them. On a GPU this waits.
    """
    above = ~(pre_acts <= thresholds)
    width = max(1, int(above.sum(-1).max())) if above.numel() else 1
    order = (~above).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]
    return order.masked_fill(~above.gather(1, order), -1)


def list_by_latent(indices: Int[Tensor, "B K"], d_sae: int) -> ByLatent:
    """The transposed lists, which both weight gradients are summed by."""
    latents = torch.where(indices >= 0, indices, d_sae).flatten()
    latents, slots = latents.sort(stable=True)
    starts = torch.searchsorted(latents, torch.arange(d_sae + 1, device=latents.device))
    return ByLatent(starts, slots)


def decode_rows(
    values: Float[Tensor, "B K"], indices: Int[Tensor, "B K"], W: Float[Tensor, "F d"]
) -> Float[Tensor, "B d"]:
    """Σ_s values[b, s] W[indices[b, s]]."""
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
    """G[b] · W[indices[b, s]], 0 in empty slots."""
    out = [
        torch.bmm(W[i.clamp(min=0)], g[..., None])[..., 0]
        for g, i in zip(G.split(TOKENS_AT_ONCE), indices.split(TOKENS_AT_ONCE), strict=True)
    ]
    return (torch.cat(out) if out else G.new_zeros(indices.shape)) * (indices >= 0)


def sum_by_latent(
    lists: ByLatent, values: Float[Tensor, "B K"], X: Float[Tensor, "B d"]
) -> Float[Tensor, "F d"]:
    """Row i is Σ values[b, s] X[b] over the slots (b, s) of latent i; 0 where it has none."""
    starts, slots = lists
    sizes = starts.diff()
    slots = slots[: int(starts[-1])]
    latents = torch.repeat_interleave(torch.arange(len(sizes), device=slots.device), sizes)
    out = X.new_zeros(len(sizes), X.shape[1])
    for part in torch.arange(len(slots), device=slots.device).split(TOKENS_AT_ONCE * 64):
        slot = slots[part]
        out.index_add_(0, latents[part], values.flatten()[slot, None] * X[slot // values.shape[1]])
    return out


def squared_norm(
    weights: Float[Tensor, "rows n"], gradient: Float[Tensor, "rows n"], unit_rows: bool
) -> Float[Tensor, ""]:
    """Σ g²; with `unit_rows` of what is left when each row loses its part along its weights."""
    total = gradient.square().sum(dtype=torch.float64)
    if unit_rows:
        along = (gradient * weights).sum(-1, dtype=torch.float64)
        total = (total - along.square().sum()).clamp(min=0)
    return total


def adam_(
    weights: Float[Tensor, "rows n"],
    gradient: Float[Tensor, "rows n"],
    mean: Float[Tensor, "rows n"],
    square: Float[Tensor, "rows n"],
    step: AdamStep,
    clip: Float[Tensor, ""],
    unit_rows: bool,
) -> None:
    """Project, clip, Adam, renormalise; `weights`, `mean` and `square` change in place.

    Args:
        clip: what the gradient is multiplied by. If it is not finite nothing changes at all.
        unit_rows: take each row's gradient at right angles to the row, and give the row unit
            length afterwards.
    """
    kept = clip.isfinite()
    if unit_rows:
        along = (gradient * weights).sum(-1, keepdim=True)
        gradient = gradient - along * weights
    gradient = gradient * clip
    new_mean = mean + (1 - step.beta1) * (gradient - mean)
    new_square = step.beta2 * square + (1 - step.beta2) * gradient * gradient
    scale = (new_square.sqrt() / step.correction2**0.5).add_(step.eps)
    new_weights = weights - step.lr / step.correction1 * new_mean / scale
    if unit_rows:
        new_weights = new_weights / new_weights.norm(dim=-1, keepdim=True).clamp(min=EPSILON)
    for old, new in ((weights, new_weights), (mean, new_mean), (square, new_square)):
        old.copy_(torch.where(kept, new, old))
