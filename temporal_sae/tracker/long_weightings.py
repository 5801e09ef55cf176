"""Weightings from totals: c_long = n_ij / N against chance, and steady or in bursts.

N tokens and the counts are of all windows after warm-up, see `temporal_sae.tracker.totals`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from temporal_sae.tracker.statistics import PairStatistics
from temporal_sae.tracker.weightings import weighting

TINY = torch.finfo(torch.float64).tiny


@weighting("rates", totals_windows=1, factor=lambda totals: totals.density())
def _rates(pairs: PairStatistics) -> Tensor:
    """w = p_i p_j: how often each latent is active, and nothing of the pair."""
    return pairs.independent_rate


@weighting("excess", relative=True, totals_windows=1)
def _excess(pairs: PairStatistics) -> Tensor:
    """w = max(0, c_long - p_i p_j): more than two latents that did not know of each other."""
    # Pairs that never were together come out at a large negative number, and so at 0.
    return (1 - pairs.independent_rate / pairs.long_rate.clamp(min=TINY)).clamp_(min=0)


@weighting("stable", relative=True, totals_windows=2, total=lambda sums: sums.long_rate_sum())
def _stable(pairs: PairStatistics) -> Tensor:
    """w = c_long / (1 + D μ): less where a pair comes in bursts.

    As `bursty`, it is divided by Σ c_long, for by its own sum what is left would be scaled up to
    full strength: the two add up to the penalty with w = c_long.
    """
    return 1 / (1 + pairs.overdispersion * pairs.mean)


@weighting("bursty", relative=True, totals_windows=2, total=lambda sums: sums.long_rate_sum())
def _bursty(pairs: PairStatistics) -> Tensor:
    """w = c_long D μ / (1 + D μ): the part of c_long that `stable` leaves out."""
    burst = pairs.overdispersion * pairs.mean
    return burst / (1 + burst)
