"""How far one window moves the running averages, as numbers that a kernel can take."""

from __future__ import annotations

from typing import NamedTuple

PAIR, UNION, CONST = 0, 1, 2


class AlphaStep(NamedTuple):
    """α of a pair in one window: min(cap, n / scale), or just `cap` for CONST.

    n is n_ij for PAIR and n_ii + n_jj - n_ij for UNION.
    """

    source: int
    cap: float
    scale: float
