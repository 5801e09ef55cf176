"""Overlaps and their gradients in plain torch: the meaning of the operations of this group."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

EPSILON = 1e-12  # the least norm that a row is divided by


def overlap_slopes(
    gram: Float[Tensor, "m k k"], weights: Float[Tensor, "m k k"], penalty: str
) -> tuple[Float[Tensor, ""], Float[Tensor, "m k k"]]:
    """Return Σ w g(cos) over all pairs of some rows X, and T with gradient T @ X by those rows.

    Args:
        gram: X Xᵀ, whose diagonal holds the squared norms; may be overwritten.
        weights: symmetric, 0 on the diagonal.
        penalty: `square` or `abs`, which is g.
    """
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    inverse = 1 / norms.clamp(min=EPSILON)
    cosine = gram * inverse[..., :, None] * inverse[..., None, :]
    value, slope = overlap_and_slope(penalty, cosine, weights)
    slope.mul_(2)
    # A row shorter than epsilon is divided by a constant, so nothing is taken out along it.
    along = (slope * cosine).sum(-1) * (norms > EPSILON)
    slope.diagonal(dim1=-2, dim2=-1).copy_(-along)
    return value, slope.mul_(inverse[..., :, None]).mul_(inverse[..., None, :])


def overlap_and_slope(penalty: str, inner: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ w g(inner) and w g'(inner)."""
    if penalty == "square":
        slope = weights * inner
        return (slope * inner).sum(), slope.mul_(2)
    slope = weights * inner.sign()
    return (slope * inner).sum(), slope


def add_rows(
    into: Float[Tensor, "F d"], rows: Int[Tensor, " n"], gradients: Float[Tensor, "n d"]
) -> None:
    """Add gradients[r] to into[rows[r]] for every r, in order: a row may come several times."""
    into.index_add_(0, rows, gradients)


def activation_rows(
    rows: Int[Tensor, "B K"],
    values: Float[Tensor, "B K"],
    weights: Float[Tensor, "rows F"],
    lo: int,
    penalty: str,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B K"]]:
    """Return Σ_{i<j} w_ij g(f_iᵀf_j / B) over some rows of weights, and its gradient by the values.

    Args:
        rows: sorted latents of a batch; `values` lie beside them, 0 in empty slots.
        weights: w_ij for i from `lo`, 0 where j <= i.
        penalty: `square` or `abs`, which is g.
    """
    n_tokens, n_latents = rows.shape[0], weights.shape[1]
    slots = torch.where(rows >= 0, rows, n_latents).long()
    acts = values.new_zeros(n_tokens, n_latents + 1).scatter(1, slots, values)[:, :n_latents]
    part = acts[:, lo : lo + weights.shape[0]]
    inner = part.T @ acts / n_tokens
    if penalty == "square":
        total, slope = (weights * inner.square()).sum(), 2 * weights * inner
    else:
        total, slope = (weights * inner.abs()).sum(), weights * inner.sign()
    by_acts = torch.zeros_like(acts)
    by_acts += part @ slope
    by_acts[:, lo : lo + weights.shape[0]] += acts @ slope.T
    gradient = torch.nn.functional.pad(by_acts, (0, 1)).gather(1, slots) / n_tokens
    return total, gradient
