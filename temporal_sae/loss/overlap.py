"""Σ w_ij g(cos(d_i, d_j)) over pairs of decoder rows or of latents, gradients written by hand.

Every overlap here is a function (x, into, scale) that returns a sum V(x) and, given `into`, adds
scale · ∂V/∂x to it on the way, while what it needs is still in the cache; what it has besides are
keywords. `differentiable` makes a node of autograd of any of them.

For decoder rows, with n_i = d_i / max(‖d_i‖, 1e-12) and a symmetric matrix of weights w,
V = Σ_{ij} w_ij g(n_iᵀn_j) has the gradient 2 Σ_j S_ij n_j by n_i, where S = w g'(N Nᵀ). By d_i it
is that, less its part along n_i, over ‖d_i‖. That part is Σ_j 2 S_ij cos_ij, so it can be put on
the diagonal of S: the gradient is one product of a k x k matrix with the k rows V was made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels import overlap
from temporal_sae.kernels.overlap import EPSILON, overlap_and_slope
from temporal_sae.kernels.row_gradient import RowGradient
from temporal_sae.machine import Planned

BYTES_AT_ONCE = 2**21
PAIR_TEMPORARIES = 4  # overlaps, weights, their product, a gradient
FLOAT = 4
SMALLER = ("sae.d_sae", "loss.ortho_weight=0")
Scale = Tensor | float
Into = Tensor | RowGradient
Overlap = Callable[[Tensor, Into | None, Scale], Tensor]


def planned_for_rows(n_latents: int, d_in: int) -> dict[str, Planned]:
    """Return the bytes of sums over pairs of rows: a gradient, and the pairs seen at once."""
    gradient = n_latents * d_in * FLOAT
    return {"penalty": Planned(gradient + PAIR_TEMPORARIES * BYTES_AT_ONCE, SMALLER)}


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, overlap: Overlap) -> Tensor:
        ctx.save_for_backward(x)
        ctx.overlap = overlap
        return overlap(x, None, 1.0)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        gradient = torch.zeros_like(x)
        ctx.overlap(x, gradient, grad_output)
        return gradient, None


def differentiable(overlap: Overlap, x: Tensor) -> Tensor:
    """Return V(x) for autograd; the backward pass calls the overlap again, with an `into`."""
    value: Tensor = _Node.apply(x, overlap)
    return value


def add_rows(into: Into, rows: Int[Tensor, " n"], gradients: Float[Tensor, "n d"]) -> None:
    """Add gradients to rows, of which one may come several times."""
    if isinstance(into, RowGradient):
        into.add(rows, gradients)
    else:
        overlap.add_rows(into, rows, gradients)


def _add(into: Into, gradient: Tensor) -> None:
    if isinstance(into, RowGradient):
        into.add_all(gradient)
    else:
        into += gradient


def overlap_of_rows(
    x: Tensor, into: Into | None, scale: Scale, *, overlap: Overlap, order: Int[Tensor, " F"]
) -> Tensor:
    """Return V(x[order]) of another overlap, for a permutation of the rows of x."""
    if into is None:
        return overlap(x[order], None, scale)
    gradient = torch.zeros_like(x)
    value = overlap(x[order], gradient, scale)
    add_rows(into, order, gradient)
    return value


def token_overlap(
    W_dec: Float[Tensor, "F d_in"],
    into: Into | None = None,
    scale: Scale = 1.0,
    *,
    rows: Int[Tensor, "M K"],
    token_weights: Callable[[slice], Tensor],
    penalty: str,
) -> Float[Tensor, ""]:
    """Return Σ_t Σ_{i≠j} w_tij g(cos(d_i, d_j)) over the pairs of latents of some tokens.

    Args:
        rows: latents of the tokens, -1 in empty slots.
        token_weights: gives the weights [m, K, K] of a slice of the tokens: symmetric, 0 on the
            diagonal and for empty slots.
        penalty: `square` or `abs`, which is g.
    """
    rows = rows.clamp(min=0).long()
    total = W_dec.new_zeros(())
    at_once = max(1, BYTES_AT_ONCE // max(1, rows.shape[1] * W_dec[0].nbytes))
    for start in range(0, rows.shape[0], at_once):
        part = slice(start, start + at_once)
        X = torch.nn.functional.embedding(rows[part], W_dec)
        value, slopes = overlap.overlap_slopes(X @ X.mT, token_weights(part).to(W_dec), penalty)
        total += value
        if into is not None:
            gradients = slopes.mul_(scale) @ X
            add_rows(into, rows[part].flatten(), gradients.flatten(0, 1))
    return total


def block_overlap(
    W_dec: Float[Tensor, "F d_in"],
    into: Into | None = None,
    scale: Scale = 1.0,
    *,
    weight_rows: Callable[[int, int], Tensor],
    penalty: str,
) -> Float[Tensor, ""]:
    """Return Σ_{i<j} w_ij g(cos(d_i, d_j)) over all pairs, in blocks of rows.

    Args:
        weight_rows: `weight_rows(lo, hi)` gives w_ij of some rows, [hi - lo, F], 0 where j <= i.
    """
    N, norms = unit_rows_and_norms(W_dec)
    total = W_dec.new_zeros(())
    gradient = None if into is None else torch.zeros_like(N)
    for lo, hi in row_blocks(N):
        weights = weight_rows(lo, hi)[:, lo:].to(N)
        value, slope = overlap_and_slope(penalty, N[lo:hi] @ N[lo:].T, weights)
        total += value
        if gradient is not None:
            gradient[lo:hi] += slope @ N[lo:]
            gradient[lo:] += slope.T @ N[lo:hi]
    if into is not None and gradient is not None:
        add_through_norms(into, gradient, N, norms, scale)
    return total


def frame_potential(
    W_dec: Float[Tensor, "F d_in"],
    into: Into | None = None,
    scale: Scale = 1.0,
    *,
    factors: Float[Tensor, " F"] | None = None,
) -> Float[Tensor, ""]:
    """Return Σ u_i u_j cos² over ordered pairs i ≠ j, from a d x d matrix.

    With P the unit rows N times their u this is ‖NᵀP‖²_F less the diagonal, Σ_i u_i² ‖n_i‖⁴.

    Args:
        factors: u; 1 for every row where it is None.
    """
    N, norms = unit_rows_and_norms(W_dec)
    P = N if factors is None else N * factors[:, None].to(N)
    gram = N.T @ P
    own = (N * P).sum(-1, keepdim=True)
    if into is not None:
        add_through_norms(into, 4 * (P @ gram - own * P), N, norms, scale)
    return gram.square().sum() - own.square().sum()


def unit_rows_and_norms(W_dec: Tensor) -> tuple[Tensor, Tensor]:
    norms = W_dec.norm(dim=-1, keepdim=True)
    return W_dec / norms.clamp(min=EPSILON), norms


def row_blocks(N: Float[Tensor, "F d_in"]) -> list[tuple[int, int]]:
    """Ranges of rows whose pairs with all others are a bounded number of bytes."""
    size = max(1, BYTES_AT_ONCE // (N.shape[0] * N.element_size()))
    return [(lo, min(lo + size, N.shape[0])) for lo in range(0, N.shape[0], size)]


def add_through_norms(into: Into, gradient: Tensor, N: Tensor, norms: Tensor, scale: Scale) -> None:
    """From the gradient by unit rows to that by the rows, scaled and added."""
    along = (gradient * N).sum(-1, keepdim=True) * (norms > EPSILON)
    _add(into, gradient.sub_(along * N).div_(norms.clamp(min=EPSILON)).mul_(scale))


def activation_overlap(
    values: Float[Tensor, "B K"],
    into: Into | None = None,
    scale: Scale = 1.0,
    *,
    rows: Int[Tensor, "B K"],
    weight_rows: Callable[[int, int], Tensor],
    penalty: str,
    d_sae: int,
) -> Float[Tensor, ""]:
    """Return Σ_{i<j} w_ij g(f_iᵀf_j / B) over the pairs that share a token of the batch.

    Args:
        values: latents of each token beside their sorted `rows`, 0 in empty slots.
        weight_rows: as for `block_overlap`.
    """
    total = values.new_zeros(())
    size = max(1, BYTES_AT_ONCE // (d_sae * values.element_size()))
    for lo in range(0, d_sae, size):
        weights = weight_rows(lo, min(lo + size, d_sae)).to(values)
        part, gradient = overlap.activation_rows(rows, values, weights, lo, penalty)
        total += part
        if into is not None:
            _add(into, gradient * scale)
    return total
