"""Overlaps and their gradients in numba, on torch's threads; nothing depends on their number."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels.overlap.naive import EPSILON
from temporal_sae.kernels.threads import compiled, on_threads
from temporal_sae.kernels.windows.cpu import index_window

PARTS_OF_A_GRADIENT = 8  # not by threads: the order of its sum must not depend on them


def overlap_slopes(
    gram: Float[Tensor, "m k k"], weights: Float[Tensor, "m k k"], penalty: str
) -> tuple[Float[Tensor, ""], Float[Tensor, "m k k"]]:
    # The slopes take the place of the inner products: `gram` becomes T.
    sums = np.zeros(gram.shape[:2], gram.numpy().dtype)
    square = penalty == "square"
    inverse, short = _inverse_norms(gram.numpy(), EPSILON)
    arrays = (gram.numpy(), weights.contiguous().numpy(), inverse, short)
    on_threads(_slopes_loop, *arrays, square, sums)
    return torch.tensor(sums.sum(), dtype=gram.dtype), gram


def add_rows(
    into: Float[Tensor, "F d"], rows: Int[Tensor, " n"], gradients: Float[Tensor, "n d"]
) -> None:
    arrays = (into.numpy(), rows.numpy(), gradients.contiguous().numpy())
    on_threads(_add_rows_loop, *arrays)


def activation_rows(
    rows: Int[Tensor, "B K"],
    values: Float[Tensor, "B K"],
    weights: Float[Tensor, "rows F"],
    lo: int,
    penalty: str,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B K"]]:
    window = index_window(rows, weights.shape[1])
    sums = np.zeros(weights.shape[0])
    gradients = torch.zeros(PARTS_OF_A_GRADIENT, *values.shape, dtype=values.dtype)
    on_threads(
        _activation_loop,
        window.lists(),
        values.detach().contiguous().numpy(),
        weights.contiguous().numpy(),
        lo,
        penalty == "square",
        sums,
        gradients.numpy(),
    )
    return torch.tensor(sums.sum(), dtype=values.dtype), gradients.sum(0)


@compiled
def _inverse_norms(gram, epsilon):
    """Return 1 / ‖d‖ of each row, and whether ‖d‖ is as good as 0."""
    n_tokens, width = gram.shape[:2]
    inverse = np.empty((n_tokens, width), gram.dtype)
    short = np.empty((n_tokens, width), np.bool_)
    for t in range(n_tokens):
        for p in range(width):
            norm = np.sqrt(gram[t, p, p])
            short[t, p] = norm <= epsilon
            inverse[t, p] = 1 / max(norm, epsilon)
    return inverse, short


@compiled
def _slopes_loop(part, parts, gram, weights, inverse, short, square, sums):
    """Write Σ w g(cos) of each row, and the slopes in the place of the inner products."""
    n_tokens, width = sums.shape
    for row in range(part, n_tokens * width, parts):
        t, p = row // width, row % width
        inner, scale = gram[t, p], inverse[t]
        sums[t, p], along = _slopes_of_row(inner, weights[t, p], scale[p], scale, square)
        inner[p] = 0 if short[t, p] else -along * scale[p] * scale[p]


@compiled(fastmath={"reassoc", "nsz", "contract"})
def _slopes_of_row(inner, weights, inverse_i, inverse, square):
    total, along = inner.dtype.type(0), inner.dtype.type(0)
    for q in range(inner.size):
        cosine = inner[q] * inverse_i * inverse[q]
        if square:
            slope = 4 * weights[q] * cosine
            total += weights[q] * cosine * cosine
        else:
            slope = 2 * weights[q] * np.sign(cosine)
            total += weights[q] * abs(cosine)
        along += slope * cosine
        inner[q] = slope * inverse_i * inverse[q]
    return total, along


@compiled
def _add_rows_loop(part, parts, into, rows, gradients):
    """Give every part some columns, so that a row which comes twice is added to in order."""
    columns = 256
    for lo in range(part * columns, into.shape[1], parts * columns):
        hi = min(lo + columns, into.shape[1])
        for r in range(rows.size):
            target, source = into[rows[r], lo:hi], gradients[r, lo:hi]
            for q in range(target.size):
                target[q] += source[q]


@compiled
def _activation_loop(part, parts, window, values, weights, lo, square, sums, gradients):
    """Write Σ_j w_ij g(f_iᵀf_j / B) of each row, and the gradient by the values, as several sums.

    Their number is the same for any number of parts, as it decides the order in which they add up.
    """
    rows, sizes, starts, tokens, slots = window
    scale = 1 / values.dtype.type(rows.shape[0])
    inner = np.zeros(weights.shape[1], values.dtype)
    for one in range(part, gradients.shape[0], parts):
        gradient = gradients[one]
        for i in range(lo + one, lo + weights.shape[0], gradients.shape[0]):
            _add_products(window, values, i, inner)
            sums[i - lo] = _activation_slopes(window, i, inner, weights[i - lo], scale, square)
            for e in range(starts[i], starts[i + 1]):
                t, s = tokens[e], slots[e]
                for p in range(s + 1, sizes[t]):
                    slope = inner[rows[t, p]]
                    gradient[t, s] += slope * values[t, p]
                    gradient[t, p] += slope * values[t, s]
            _clear(window, i, inner)


@compiled
def _add_products(window, values, i, inner):
    """Add up f_iᵀf_j of all j > i that share a token with i."""
    rows, sizes, starts, tokens, slots = window
    for e in range(starts[i], starts[i + 1]):
        t = tokens[e]
        value = values[t, slots[e]]
        for p in range(slots[e] + 1, sizes[t]):
            inner[rows[t, p]] += value * values[t, p]


@compiled
def _activation_slopes(window, i, inner, weights, scale, square):
    """Turn inner products into the derivatives by them, and return Σ_j w g."""
    total = 0.0
    for j in range(i + 1, inner.size):
        product, weight = inner[j] * scale, weights[j]
        if product == 0:
            continue
        if square:
            total += weight * product * product
            inner[j] = 2 * weight * product * scale
        else:
            total += weight * abs(product)
            inner[j] = np.sign(product) * weight * scale
    return total


@compiled
def _clear(window, i, inner):
    rows, sizes, starts, tokens, slots = window
    for e in range(starts[i], starts[i + 1]):
        row = rows[tokens[e]]
        for p in range(slots[e] + 1, sizes[tokens[e]]):
            inner[row[p]] = 0
