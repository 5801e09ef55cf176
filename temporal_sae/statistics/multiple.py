"""p values of a family of tests, adjusted for how many there are.

An adjusted value is compared with the level that was meant for a single test. NaN stands for a test
that could not be made: it stays NaN and does not count in the size of the family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


def holm(p: Sequence[float]) -> list[float]:
    """Return p values [m] adjusted so that the chance of any false rejection is kept.

    max over j ≤ i of (m - j + 1) · p_(j), at most 1, whatever the dependence between the tests
    (Holm 1979, A simple sequentially rejective multiple test procedure).
    """

    def adjusted(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
        m = len(ordered)
        return np.maximum.accumulate(ordered * np.arange(m, 0, -1))

    return _adjusted(p, adjusted)


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Return p values [m] adjusted so that the expected share of false rejections is kept.

    min over j ≥ i of m / j · p_(j), at most 1, for tests that are independent or positively
    dependent (Benjamini and Hochberg 1995; Benjamini and Yekutieli 2001, theorem 1.2).
    """

    def adjusted(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
        m = len(ordered)
        scaled = ordered * m / np.arange(1, m + 1)
        return np.minimum.accumulate(scaled[::-1])[::-1]

    return _adjusted(p, adjusted)


def _adjusted(
    p: Sequence[float], rule: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> list[float]:
    values = np.asarray(p, dtype=np.float64)
    found = values.copy()
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    found[order] = np.minimum(rule(values[order]), 1.0)
    return [float(value) for value in found]
