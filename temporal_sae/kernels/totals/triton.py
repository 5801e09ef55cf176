"""Totals of pairs on CUDA: counted by Triton, and added up by torch, once in a window."""

from __future__ import annotations

from torch import Tensor

from temporal_sae.kernels.totals.naive import TotalsMap, add_by
from temporal_sae.kernels.windows.triton import WindowIndex, count_rows

__all__ = ["TotalsMap", "add_dense"]


def add_dense(counts: Tensor, squares: Tensor, lo: int, hi: int, window: WindowIndex) -> None:
    add_by(count_rows, counts, squares, lo, hi, window)
