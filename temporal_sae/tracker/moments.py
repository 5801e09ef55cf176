"""Mean and variance of counts in windows, from their sums: for arrays and for tensors."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

T = TypeVar("T", np.ndarray, Tensor)


def mean_and_variance(total: T, squares: T, n_windows: int) -> tuple[T, T]:
    """Return the mean and the unbiased variance of counts in windows, in the kind of `total`.

    Args:
        total: Σ of a count over windows, float64, of any shape.
        squares: Σ of its square, of the same shape.
        n_windows: of one length, at least two.
    """
    mean = total / n_windows
    return mean, (squares - n_windows * mean**2) / (n_windows - 1)
