"""8-bit integers in place of float32, with an error that does not depend on the data.

With u uniform on [-½, ½], s (round(x / s + u) - u) differs from x by a number that is uniform on
[-s/2, s/2] whatever x is (subtractive dither; Schuchman 1964). It is as likely to exceed t of its
standard deviations as a normal variable is by the bound exp(-t²/2), and so is every weighted sum
of such numbers that are independent. So is, then, the error of a product of two rows that are
rounded like this: of variance (s_x² ‖w‖² + s_w² ‖x̂‖²) / 12.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from llvmlite import binding

from temporal_sae.kernels.threads import compiled, on_threads

FAST = {"reassoc", "nsz", "contract"}
# With half a step of dither within 8 bits. Without VNNI, products are added up in 16 bits, two at a
# time and cut off at their end, which 7 bits do not reach.
LEVELS, FEWER_LEVELS = 126.0, 62.0
NOT_FINITE = np.int32(0x7F800000)  # the bits of infinity; those of NaN are more


class Rounded(NamedTuple):
    """Rows s (q - u) of integers q and a dither u that all rows share.

    Attributes:
        q: int8 [n, d], and a column of zeros where d is 1.
        scale: s, float32 [n]; infinite where the row is not finite.
        offset: Σ q u' of the dither of the other side, float32 [n].
        square: ‖row‖² before rounding, float32 [n].
    """

    q: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    square: np.ndarray

    def first(self, n: int) -> Rounded:
        """Return the first n rows."""
        return Rounded(*(part[:n] for part in self))


def room_for(n: int, d: int) -> Rounded:
    """Return rows to round into."""
    q = np.zeros((n, max(2, d)), np.int8)  # of a single column torch's product is wrong
    return Rounded(q, *(np.empty(n, np.float32) for _ in range(3)))


@cache
def dithers(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return u for either side, float32 [d]: always the same ones, so that runs repeat."""
    generator = np.random.default_rng(0)
    return tuple(generator.uniform(-0.5, 0.5, (2, d)).astype(np.float32))


@cache
def has_vnni() -> bool:
    """Return whether the processor multiplies and adds up 8-bit integers in 32 bits."""
    features = binding.get_host_cpu_features()
    return bool(features.get("avx512vnni") or features.get("avxvnni"))


def round_rows(
    rows: np.ndarray, factors: np.ndarray, dither: np.ndarray, other: np.ndarray, into: Rounded
) -> None:
    """Round rows [n, d] whose columns are multiplied by `factors` first."""
    levels = np.float32(LEVELS if has_vnni() else FEWER_LEVELS)
    on_threads(_round_loop, rows, factors, dither, other, levels, *into)


@compiled(fastmath=FAST)
def _round_loop(part, parts, rows, factors, dither, other, levels, q, scale, offset, square):
    n, d = rows.shape
    y = np.empty(d, np.float32)
    bits = y.view(np.int32)  # compared as integers, which is as quick as adding up
    for r in range(part * n // parts, (part + 1) * n // parts):
        row, rounded = rows[r], q[r]
        most, total = np.int32(0), np.float32(0)
        for j in range(d):
            y[j] = row[j] * factors[j]
            most = np.int32(max(most, bits[j] & np.int32(0x7FFFFFFF)))
            total += y[j] * y[j]
        largest = np.int32(most).view(np.float32)
        steps = levels / largest if largest > 0 else np.float32(0)
        shift = np.float32(0)
        for j in range(d):
            level = np.rint(y[j] * steps + dither[j])
            rounded[j] = np.int8(level)
            shift += level * other[j]
        scale[r] = largest / levels if most < NOT_FINITE else np.float32(np.inf)
        offset[r], square[r] = shift, total
