"""Weighted overlaps of pairs of decoder rows, with backward passes written by hand.

With n_i = d_i / max(‖d_i‖, 1e-12) and a symmetric matrix of weights w, V = Σ_{ij} w_ij g(n_iᵀn_j)
has the gradient 2 Σ_j S_ij n_j by n_i, where S = w g'(N Nᵀ); by d_i it is that, less its part along
n_i, over ‖d_i‖. That part is Σ_j 2 S_ij cos_ij, so it can be put on the diagonal of S: the whole
backward pass is one product of a k x k matrix with the same k rows that the forward pass read.
Weights are constants. Gradients are computed in the forward pass, while the rows are in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels import kernels_for
from temporal_sae.loss.pairs import EPSILON

BYTES_AT_ONCE = 2**24
WeightRows = Callable[[int, int], Tensor]


def overlaps_and_slopes(
    penalty: str, X: Float[Tensor, "*m k d"], weights: Float[Tensor, "*m k k"]
) -> tuple[Float[Tensor, "*m k k"], Float[Tensor, "*m k k"]]:
    """w g(cos) of all pairs of some rows, and the matrix T with gradient T @ X by the rows.

    Args:
        X: decoder rows, any length; the norms are the roots of the diagonal of X Xᵀ.
        weights: symmetric, 0 on the diagonal.
    """
    gram = X @ X.mT
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = 1 / norms.clamp(min=EPSILON)
    cosine = gram.mul_(scale[..., :, None]).mul_(scale[..., None, :])
    if penalty == "square":
        slope = (2 * weights).mul_(cosine)
        value = weights * cosine.square()
    else:
        slope = weights * cosine.sign()
        value = weights * cosine.abs()
    slope.mul_(2)
    # A row shorter than epsilon is divided by a constant, so nothing is taken out along it.
    along = (slope * cosine).sum(-1) * (norms > EPSILON)
    slope.diagonal(dim1=-2, dim2=-1).copy_(-along)
    return value, slope.mul_(scale[..., :, None]).mul_(scale[..., None, :])


class TokenOverlap(torch.autograd.Function):
    """Σ_t Σ_{i≠j} w_tij g(cos(d_i, d_j)) over the pairs of latents of some tokens.

    `apply(W_dec, rows, token_weights, penalty)` with rows int [M, K], -1 in empty slots, and
    `token_weights(part)`, which gives the weights [m, K, K] of a slice of the tokens: symmetric, 0
    on the diagonal and for empty slots.
    """

    @staticmethod
    def forward(
        ctx: Any,
        W_dec: Float[Tensor, "F d_in"],
        rows: Int[Tensor, "M K"],
        token_weights: Callable[[slice], Tensor],
        penalty: str,
    ) -> Tensor:
        rows = rows.clamp(min=0).long()
        gradient = RowGradient(W_dec, rows) if ctx.needs_input_grad[0] else None
        total = W_dec.new_zeros(())
        at_once = max(1, BYTES_AT_ONCE // max(1, rows.shape[1] * W_dec[0].nbytes))
        for start in range(0, rows.shape[0], at_once):
            part = slice(start, start + at_once)
            X = torch.nn.functional.embedding(rows[part], W_dec)
            values, slopes = overlaps_and_slopes(penalty, X, token_weights(part).to(W_dec))
            total += values.sum()
            if gradient is not None:
                gradient.add(part, slopes @ X)
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.gradient.dense(grad_output), None, None, None


class RowGradient:
    """The sum of gradients of some rows of a matrix, kept for those rows only where that is less.

    Args:
        matrix: what the gradient is of.
        rows: the row of every slot, int [M, K].
    """

    def __init__(self, matrix: Tensor, rows: Int[Tensor, "M K"]) -> None:
        self.shape = matrix.shape
        self.rows: Tensor | None = None
        self.places = rows
        if rows.numel() < matrix.shape[0] and rows.device.type == "cpu":
            self.rows, self.places = rows.unique(return_inverse=True)
        n_rows = matrix.shape[0] if self.rows is None else len(self.rows)
        self.sums = matrix.new_zeros(n_rows, matrix.shape[1])

    def add(self, tokens: slice, gradients: Float[Tensor, "m K d"]) -> None:
        """Add the gradients of all slots of some tokens."""
        self.sums.index_add_(0, self.places[tokens].flatten(), gradients.flatten(0, 1))

    def dense(self, factor: Tensor) -> Tensor:
        """Times a factor, for all rows."""
        if self.rows is None:
            return self.sums * factor
        gradient = self.sums.new_zeros(self.shape)
        return gradient.index_copy_(0, self.rows, self.sums * factor)


class BlockOverlap(torch.autograd.Function):
    """Σ_{i<j} w_ij g(cos(d_i, d_j)) over all pairs, in blocks of rows.

    `apply(W_dec, weight_rows, penalty)` where `weight_rows(lo, hi)` gives w_ij of some rows,
    [hi - lo, F], 0 where j <= i.
    """

    @staticmethod
    def forward(
        ctx: Any, W_dec: Float[Tensor, "F d_in"], weight_rows: WeightRows, penalty: str
    ) -> Tensor:
        norms = W_dec.norm(dim=-1, keepdim=True)
        N = W_dec / norms.clamp(min=EPSILON)
        total = W_dec.new_zeros(())
        gradient = torch.zeros_like(W_dec) if ctx.needs_input_grad[0] else None
        size = max(1, BYTES_AT_ONCE // W_dec[:, 0].numel() // W_dec.element_size())
        for lo in range(0, W_dec.shape[0], size):
            hi = min(lo + size, W_dec.shape[0])
            weights = weight_rows(lo, hi)[:, lo:].to(N)
            cosine = N[lo:hi] @ N[lo:].T
            if penalty == "square":
                total += (weights * cosine.square()).sum()
                slope = weights.mul_(2).mul_(cosine)
            else:
                total += (weights * cosine.abs()).sum()
                slope = weights.mul_(cosine.sign())
            if gradient is not None:
                gradient[lo:hi] += slope @ N[lo:]
                gradient[lo:] += slope.T @ N[lo:hi]
        if gradient is not None:
            along = (gradient * N).sum(-1, keepdim=True) * (norms > EPSILON)
            gradient.sub_(along * N).div_(norms.clamp(min=EPSILON))
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient * grad_output, None, None


class ActivationOverlap(torch.autograd.Function):
    """Σ_{i<j} w_ij g(f_iᵀf_j / B) over the pairs that share a token of the batch.

    `apply(values, rows, weight_rows, penalty, d_sae)` with rows sorted, values beside them, and
    `weight_rows` as for `BlockOverlap`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Float[Tensor, "B K"],
        rows: Int[Tensor, "B K"],
        weight_rows: WeightRows,
        penalty: str,
        d_sae: int,
    ) -> Tensor:
        activation_rows = kernels_for(values.device).activation_rows
        total, gradient = values.new_zeros(()), torch.zeros_like(values)
        size = max(1, BYTES_AT_ONCE // d_sae // values.element_size())
        for lo in range(0, d_sae, size):
            weights = weight_rows(lo, min(lo + size, d_sae)).to(values)
            part, by_values = activation_rows(rows, values, weights, lo, penalty)
            total += part
            gradient += by_values
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None, None]:
        return ctx.gradient * grad_output, None, None, None, None
