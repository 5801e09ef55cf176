"""The compiled loops behind `cpu_step`: numpy arrays only.

Sums of gathered rows walk the width of the matrix in blocks, each copied to where it is contiguous
first, so that the gathered pieces stay in the caches. A loop does one of several parts, and
`threads` runs them side by side; nothing depends on how many there are, since every element is
added up in one fixed order.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FAST = {"reassoc", "nsz", "contract"}
WIDEST, NARROWEST = 384, 64  # columns of a block
BLOCK_BYTES = 5 * 2**20  # of a block, between those: a share of the last-level cache
COPIED_FROM = 6  # gathers of each row, on average, from which on copying the blocks pays

compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)


def block_width(n_rows, d, n_gathers):
    """Columns of a block: not by the machine, since the order of sums depends on it."""
    fitting = BLOCK_BYTES // (4 * max(1, n_rows)) // 32 * 32
    return min(WIDEST, max(NARROWEST, fitting)) if n_gathers >= COPIED_FROM * n_rows else d


@compiled
def copy_columns(part, parts, matrix, lo, hi, block):
    """The columns `lo` to `hi` of a matrix to where they are contiguous."""
    for i in range(part * len(matrix) // parts, (part + 1) * len(matrix) // parts):
        block[i, : hi - lo] = matrix[i, lo:hi]


@compiled
def gather_sum(part, parts, starts, columns, values, block, lo, hi, out):
    """out[r, lo:hi] = Σ values[e] block[columns[e]] over starts[r] <= e < starts[r + 1]."""
    for r in range(part, starts.size - 1, parts):
        total = out[r, lo:hi]
        total[:] = 0
        _add_rows(total, block, columns, values, starts[r], starts[r + 1])


@compiled
def _add_rows(total, block, columns, values, start, end):
    """Four rows at a time: one load and store of the sum for four of what is added."""
    e = start
    while e + 4 <= end:
        a, b, c, d = columns[e], columns[e + 1], columns[e + 2], columns[e + 3]
        p, q, r, s = values[e], values[e + 1], values[e + 2], values[e + 3]
        for j in range(total.size):
            total[j] += (p * block[a, j] + q * block[b, j]) + (r * block[c, j] + s * block[d, j])
        e += 4
    while e < end:
        a, p = columns[e], values[e]
        for j in range(total.size):
            total[j] += p * block[a, j]
        e += 1


@compiled
def gather_dot(part, parts, starts, columns, vectors, block, lo, hi, out):
    """out[e] += vectors[r, lo:hi] · block[columns[e]] for starts[r] <= e < starts[r + 1]."""
    for r in range(part, starts.size - 1, parts):
        _add_dots(out, vectors[r, lo:hi], block, columns, starts[r], starts[r + 1])


@compiled
def _add_dots(out, vector, block, columns, start, end):
    zero = vector.dtype.type(0)
    e = start
    while e + 4 <= end:
        a, b, c, d = columns[e], columns[e + 1], columns[e + 2], columns[e + 3]
        p, q, r, s = zero, zero, zero, zero
        for j in range(vector.size):
            x = vector[j]
            p += x * block[a, j]
            q += x * block[b, j]
            r += x * block[c, j]
            s += x * block[d, j]
        out[e] += p
        out[e + 1] += q
        out[e + 2] += r
        out[e + 3] += s
        e += 4
    while e < end:
        a, p = columns[e], zero
        for j in range(vector.size):
            p += vector[j] * block[a, j]
        out[e] += p
        e += 1


@compiled
def list_by_latent(indices, starts, slots):
    """A counting sort of the slots by their latents."""
    flat = indices.reshape(-1)
    for latent in flat:
        if latent >= 0:
            starts[latent + 1] += 1
    for i in range(starts.size - 1):
        starts[i + 1] += starts[i]
    place = starts[:-1].copy()
    for slot in range(flat.size):
        latent = flat[slot]
        if latent >= 0:
            slots[place[latent]] = slot
            place[latent] += 1


@compiled
def squared_norms(part, parts, weights, gradient, unit_rows, sums):
    """Σ g² of each row, less its part along the weights."""
    for r in range(part * sums.size // parts, (part + 1) * sums.size // parts):
        total = along = np.float64(0)
        for j in range(weights.shape[1]):
            g = np.float64(gradient[r, j])
            total += g * g
            along += g * weights[r, j]
        sums[r] = total - along * along if unit_rows else total


@compiled
def adam(part, parts, weights, gradient, mean, square, numbers, unit_rows):
    """See `plain_step.adam_`; every row stays in the first-level cache while it is worked on."""
    clip, rate, move1, keep2, move2, eps, root2, epsilon = numbers
    for r in range(part * len(weights) // parts, (part + 1) * len(weights) // parts):
        w, g, m, v = weights[r], gradient[r], mean[r], square[r]
        along = _dot(g, w) if unit_rows else w.dtype.type(0)
        for j in range(w.size):
            x = (g[j] - along * w[j]) * clip
            m[j] += move1 * (x - m[j])
            v[j] = keep2 * v[j] + move2 * x * x
            w[j] -= rate * m[j] / (np.sqrt(v[j]) / root2 + eps)
        if unit_rows:
            length = max(np.sqrt(_dot(w, w)), epsilon)
            for j in range(w.size):
                w[j] /= length


@compiled
def _dot(a, b):
    total = a.dtype.type(0)
    for j in range(a.size):
        total += a[j] * b[j]
    return total
