"""Statistics of two latents from their counts; every function takes arrays or numbers.

N tokens; n_i, n_j tokens in which each fires; n_ij in which both do. Formulas: docs/atlas.md.
Where a quotient has no value, because a latent never fires or always does, the result is NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from temporal_sae.tracker.moments import mean_and_variance

Array = np.ndarray


class Counts(NamedTuple):
    """Counts of pairs, float64 arrays that fit together.

    Attributes:
        n_ij, n_i, n_j: tokens in which both fire, and each.
        n_tokens: N.
    """

    n_ij: Array
    n_i: Array
    n_j: Array
    n_tokens: float

    @classmethod
    def of(cls, n_ij: ArrayLike, n_i: ArrayLike, n_j: ArrayLike, n_tokens: float) -> Counts:
        """Return counts in float64, which holds every count below 2**53 exactly."""
        n_ij, n_i, n_j = (np.asarray(n, np.float64) for n in (n_ij, n_i, n_j))
        return cls(n_ij, n_i, n_j, float(n_tokens))


def phi(c: Counts) -> Array:
    """Return the correlation of two latents' firing, in [-1, 1].

    φ = (N n_ij − n_i n_j) / √(n_i n_j (N − n_i)(N − n_j))
    """
    of_i, of_j = c.n_i * (c.n_tokens - c.n_i), c.n_j * (c.n_tokens - c.n_j)
    return divided(c.n_tokens * c.n_ij - c.n_i * c.n_j, np.sqrt(of_i) * np.sqrt(of_j))


def lift(c: Counts) -> Array:
    """Return how often two latents fire together, over what independence would give."""
    return divided(c.n_tokens * c.n_ij, c.n_i * c.n_j)


def npmi(c: Counts) -> Array:
    """Return ln(lift) / −ln(n_ij / N), in [-1, 1]; −1 where they never fire together.

    Of two latents that both fire in every token, for which it has no value, it is NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = divided(np.log(lift(c)), -np.log(c.n_ij / c.n_tokens))
    return np.where((c.n_ij == 0) & (c.n_i > 0) & (c.n_j > 0), -1.0, found)


def jaccard(c: Counts) -> Array:
    """Return the tokens in which both fire, over those in which any does."""
    return divided(c.n_ij, c.n_i + c.n_j - c.n_ij)


def given_j(c: Counts) -> Array:
    """Return P(i | j), the share of j's tokens in which i fires."""
    return divided(c.n_ij, c.n_j)


def given_i(c: Counts) -> Array:
    """Return P(j | i), the share of i's tokens in which j fires."""
    return divided(c.n_ij, c.n_i)


def z_score(c: Counts) -> Array:
    """Return z against independence, √N φ."""
    return np.sqrt(c.n_tokens) * phi(c)


def fano_factor(n: ArrayLike, squares: ArrayLike, n_windows: int) -> Array:
    """Return variance over mean of a pair's counts in windows; 1 for a Poisson process.

    Args:
        n: tokens in which both fire, in all windows.
        squares: Σ over windows of the square of their count.
        n_windows: of one length.
    """
    mean, variance = moments(n, squares, n_windows)
    return divided(variance, mean)


def overdispersion(n: ArrayLike, squares: ArrayLike, n_windows: int) -> Array:
    """Return D of variance = μ + D μ², a gamma-Poisson process; negative by chance where D is 0."""
    mean, variance = moments(n, squares, n_windows)
    return divided(variance - mean, mean**2)


def moments(n: ArrayLike, squares: ArrayLike, n_windows: int) -> tuple[Array, Array]:
    """Return mean and unbiased variance of counts in windows; NaN for fewer than two windows."""
    total, squares = np.asarray(n, np.float64), np.asarray(squares, np.float64)
    if n_windows < 2:
        return np.full_like(total, np.nan), np.full_like(total, np.nan)
    return mean_and_variance(total, squares, n_windows)


def divided(a: Array, b: Array) -> Array:
    """Return a / b, NaN where b is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b == 0, np.nan, a / b)
