"""The compiled loops of the penalty behind `cpu`: numpy arrays only.

Apart from `loops` also because a compiled function is cached by its own file: none here calls one
of there. They do one of several parts, as there; nothing depends on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

compiled = njit(nogil=True, cache=True, error_model="numpy")


@compiled
def add_rows(part, parts, into, rows, gradients):
    """Every part has some columns, so that a row which comes twice is added to in order."""
    columns = 256
    for lo in range(part * columns, into.shape[1], parts * columns):
        hi = min(lo + columns, into.shape[1])
        for r in range(rows.size):
            target, source = into[rows[r], lo:hi], gradients[r, lo:hi]
            for q in range(target.size):
                target[q] += source[q]


@compiled
def inverse_norms(gram, epsilon):
    """1 / ‖d‖ of each row, and whether it is as good as 0."""
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
def overlap_slopes(part, parts, gram, weights, inverse, short, square, sums):
    """Σ w g(cos) of each row, and the slopes in the place of the inner products."""
    n_tokens, width = sums.shape
    for row in range(part, n_tokens * width, parts):
        t, p = row // width, row % width
        inner, scale = gram[t, p], inverse[t]
        sums[t, p], along = _slopes_of_row(inner, weights[t, p], scale[p], scale, square)
        inner[p] = 0 if short[t, p] else -along * scale[p] * scale[p]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})
def _slopes_of_row(inner, weights, own, inverse, square):
    total, along = inner.dtype.type(0), inner.dtype.type(0)
    for q in range(inner.size):
        cosine = inner[q] * own * inverse[q]
        if square:
            slope = 4 * weights[q] * cosine
            total += weights[q] * cosine * cosine
        else:
            slope = 2 * weights[q] * np.sign(cosine)
            total += weights[q] * abs(cosine)
        along += slope * cosine
        inner[q] = slope * own * inverse[q]
    return total, along


@compiled
def activation_rows(part, parts, window, values, weights, lo, square, sums, gradients):
    """Σ_j w_ij g(f_iᵀf_j / B) of each row, and the gradient by the values, as several sums.

    How many there are is the same for any number of parts, as it decides the order of their sum.
    """
    rows, sizes, starts, tokens, slots = window
    scale = 1 / values.dtype.type(rows.shape[0])
    inner = np.zeros(weights.shape[1], values.dtype)
    for one in range(part, gradients.shape[0], parts):
        gradient = gradients[one]
        for i in range(lo + one, lo + weights.shape[0], gradients.shape[0]):
            _add_products(window, values, i, inner)
            sums[i - lo] = _slopes(window, i, inner, weights[i - lo], scale, square)
            for e in range(starts[i], starts[i + 1]):
                t, s = tokens[e], slots[e]
                for p in range(s + 1, sizes[t]):
                    slope = inner[rows[t, p]]
                    gradient[t, s] += slope * values[t, p]
                    gradient[t, p] += slope * values[t, s]
            _clear(window, i, inner)


@compiled
def _add_products(window, values, i, inner):
    """f_iᵀf_j of all j > i that share a token with i."""
    rows, sizes, starts, tokens, slots = window
    for e in range(starts[i], starts[i + 1]):
        t = tokens[e]
        own = values[t, slots[e]]
        for p in range(slots[e] + 1, sizes[t]):
            inner[rows[t, p]] += own * values[t, p]


@compiled
def _slopes(window, i, inner, weights, scale, square):
    """Turn inner products into the derivatives by them; returns Σ_j w g."""
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
