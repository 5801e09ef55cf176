"""What every pair penalty is made of: overlaps g_ij, and the ways to sum them."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.latents import Latents

PENALTIES = ("square", "abs")
REDUCTIONS = ("weighted_mean", "sum", "mean")
EPSILON = 1e-12


class PairWeights(Protocol):
    """The side of a tracker that a penalty sees; all weights are constants to the gradient."""

    windows_closed: int
    tokens_seen: int
    last_window: Int[Tensor, "W k"] | None
    weights_follow_window: bool

    def rate(self, i: Tensor, j: Tensor) -> Tensor: ...
    def before(self, i: Tensor, j: Tensor) -> Tensor: ...
    def rate_matrix(self) -> Float[Tensor, "F F"]: ...
    def weight_matrix(self, weighting: str) -> Float[Tensor, "F F"]: ...
    def weight_sum(self, weighting: str) -> Float[Tensor, ""]: ...


def unit_rows(W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "d_sae d_in"]:
    """Rows divided by max(‖row‖, 1e-12)."""
    return W_dec / W_dec.norm(dim=-1, keepdim=True).clamp(min=EPSILON)


def overlap(penalty: str, inner: Tensor) -> Tensor:
    """g: the inner product squared, or its absolute value."""
    return inner.square() if penalty == "square" else inner.abs()


def activation_gram(latents: Latents, d_sae: int) -> Float[Tensor, "F F"]:
    """f_iᵀ f_j / B over the tokens of a batch."""
    acts = latents.to_dense(d_sae)
    return acts.T @ acts / acts.shape[0]


def off_diagonal_sum(weights: Float[Tensor, "F F"], g: Float[Tensor, "F F"]) -> Float[Tensor, ""]:
    """Σ w_ij g_ij over ordered pairs i ≠ j; `weights` has a zero diagonal."""
    return (weights * g).sum()


def frame_potential(D_hat: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, ""]:
    """Σ cos² over ordered pairs i ≠ j, from a d x d matrix: ‖D̂ᵀD̂‖²_F less the diagonal."""
    return (D_hat.T @ D_hat).square().sum() - D_hat.square().sum(-1).square().sum()


def reduce_pairs(
    reduction: str, ordered_sum: Tensor, weight_sum: Tensor | float, d_sae: int
) -> Tensor:
    """Turn Σ_{i≠j} w g into the penalty.

    `weighted_mean`: Σ w g / max(Σ w, 1e-12). `sum`: over i < j, the formula to the letter.
    `mean`: Σ_{i≠j} w g / F², as the reference run had it.
    """
    if reduction == "sum":
        return ordered_sum / 2
    if reduction == "mean":
        return ordered_sum / d_sae**2
    return ordered_sum / torch.as_tensor(weight_sum).clamp(min=2 * EPSILON)
