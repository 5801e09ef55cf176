"""An interval for other seeds and other texts at once.

All seeds are scored on the same texts, so the design is crossed: d_su, the difference of seed s on
text u, has a part of the seed, a part of the text that all seeds share, and a part of both. The
spread over seeds, s²/n, holds the first and the last; the part of the texts does not average out
over seeds and is missing from it. It is measured by drawing texts anew, the same for all seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from temporal_sae.statistics.paired import LEVEL


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, with its uncertainty split by where it comes from.

    Attributes:
        mean: over the seeds, on the texts at hand.
        low, high: of the mean over other seeds and other texts; NaN where there is none.
        error_of_seeds: standard error over seeds, the texts being what they are.
        error_of_units: standard error of the mean over texts, the seeds being what they are.
        freedom: degrees of freedom of the interval.
    """

    mean: float
    low: float
    high: float
    error_of_seeds: float
    error_of_units: float
    freedom: float


def interval_of_seeds_and_units(
    differences: ArrayLike, resampled: ArrayLike, n_units: int, level: float = LEVEL
) -> Interval:
    """Return the interval of a mean difference over random seeds and random texts.

    With V_s = s²/n of the n seeds' differences, V_u = the variance over resamples of the mean over
    seeds, and V_su = the variance over resamples of a seed's distance from that mean, averaged over
    seeds and divided by n - 1 (the part of both, which V_s and V_u each hold once),

        variance = max(V_s + V_u - V_su, V_s, V_u),

    which for a mean over texts estimates σ_s²/n + σ_u²/U + σ_su²/(nU), the variance in a crossed
    design with two random factors (Searle, Casella and McCulloch 1992, chapter 4; resampling both
    independently, the pigeonhole bootstrap of Owen 2007, counts the last part three times).
    The interval is Student's, with the degrees of freedom of Satterthwaite (1946),
    variance² / (V_s²/(n - 1) + V_u²/(U - 1)), at least n - 1.

    Args:
        differences: on the texts at hand, [seeds].
        resampled: the same on texts drawn anew with replacement, [seeds, resamples]; a column has
            the same texts for every seed. At least 200 columns.
        n_units: number of texts, U.
        level: coverage.

    Raises:
        ValueError: the shapes do not fit.
    """
    from scipy.special import stdtrit  # slow to import

    values = np.asarray(differences, dtype=np.float64)
    drawn = np.asarray(resampled, dtype=np.float64)
    n = len(values)
    if drawn.ndim != 2 or len(drawn) != n:
        raise ValueError(f"resampled has shape {drawn.shape}, must have ({n}, resamples)")
    mean = float(values.mean()) if n else math.nan
    if n < 2 or n_units < 2 or drawn.shape[1] < 2:
        return Interval(mean, math.nan, math.nan, math.nan, math.nan, math.nan)
    of_seeds = float(values.var(ddof=1)) / n
    of_units = float(drawn.mean(0).var(ddof=1))
    of_both = float((drawn - drawn.mean(0)).var(1, ddof=1).mean()) / (n - 1)
    variance = max(of_seeds + of_units - of_both, of_seeds, of_units)
    if not variance > 0:
        return Interval(mean, mean, mean, 0.0, 0.0, n - 1)
    freedom = variance**2 / (of_seeds**2 / (n - 1) + of_units**2 / (n_units - 1))
    freedom = max(freedom, n - 1)
    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance)
    return Interval(
        mean, mean - half, mean + half, math.sqrt(of_seeds), math.sqrt(of_units), freedom
    )
