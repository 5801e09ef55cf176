"""The compiled loops behind `cpu_step`: numpy arrays only.

Sums of gathered rows walk the width of the matrix in blocks, each copied to where it is contiguous
first, so that the gathered pieces stay in the caches. Nothing depends on the number of threads:
every element is added up in one fixed order.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

FAST = {"reassoc", "nsz", "contract"}
WIDEST, NARROWEST = 384, 64  # columns of a block
BLOCK_BYTES = 5 * 2**20  # of a block, between those: a share of the last-level cache
COPIED_FROM = 6  # gathers of each row, on average, from which on copying the blocks pays

compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
parallel = njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST, parallel=True)


@compiled
def _width(n_rows):
    """Columns of a block: not by the machine, since the order of sums depends on it."""
    fitting = BLOCK_BYTES // (4 * n_rows) // 32 * 32
    return min(WIDEST, max(NARROWEST, fitting))


@parallel
def gather_sum(starts, columns, values, matrix, chunks, out):
    """out[r] = Σ values[e] matrix[columns[e]] over starts[r] <= e < starts[r + 1]."""
    n, d = matrix.shape
    width = _width(n)
    copied = d > width and columns.size >= COPIED_FROM * n
    block = np.empty((n, width), matrix.dtype) if copied else matrix
    for lo in range(0, d, width if copied else d):
        hi = min(lo + width, d) if copied else d
        if copied:
            for i in prange(n):
                block[i, : hi - lo] = matrix[i, lo:hi]
        for part in prange(chunks):
            for r in range(part, starts.size - 1, chunks):
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


@parallel
def gather_dot(starts, columns, vectors, matrix, chunks, out):
    """out[e] = vectors[r] · matrix[columns[e]] for starts[r] <= e < starts[r + 1]."""
    n, d = matrix.shape
    width = _width(n)
    copied = d > width and columns.size >= COPIED_FROM * n
    block = np.empty((n, width), matrix.dtype) if copied else matrix
    out[:] = 0
    for lo in range(0, d, width if copied else d):
        hi = min(lo + width, d) if copied else d
        if copied:
            for i in prange(n):
                block[i, : hi - lo] = matrix[i, lo:hi]
        for part in prange(chunks):
            for r in range(part, starts.size - 1, chunks):
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


@parallel
def squared_norms(weights, gradient, unit_rows, sums):
    """Σ g² of each row, less its part along the weights."""
    for r in prange(sums.size):
        total = along = np.float64(0)
        for j in range(weights.shape[1]):
            g = np.float64(gradient[r, j])
            total += g * g
            along += g * weights[r, j]
        sums[r] = total - along * along if unit_rows else total


@parallel
def adam(weights, gradient, mean, square, numbers, unit_rows):
    """See `plain_step.adam_`; every row stays in the first-level cache while it is worked on."""
    clip, rate, move1, keep2, move2, eps, root2, epsilon = numbers
    for r in prange(weights.shape[0]):
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
