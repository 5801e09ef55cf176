"""Running averages of all pairs in plain torch: the meaning of the operations of this group.

`averages` is the packed upper triangle of the rows `lo` to `hi`: row i holds its F - 1 - i pairs
(i, i + 1) … (i, F - 1), one row after another. c = n_ij / W is a pair's rate in a window of W
tokens, c̄ its average.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.kernels.windows.naive import WindowIndex, count_rows

PAIR, UNION, CONST = 0, 1, 2


class AlphaStep(NamedTuple):
    """α of a pair in one window, by which its average moves: min(cap, n / scale); `cap` for CONST.

    n is n_ij for PAIR and n_ii + n_jj - n_ij for UNION.
    """

    source: int
    cap: float
    scale: float


PAIRS_AT_ONCE = 2**22


def pairs_before(n_latents: int, row: int) -> int:
    """Count the pairs i < j with i below `row`: where that row starts in the packed triangle."""
    return row * n_latents - row * (row + 1) // 2


def close_dense(
    averages: Float[Tensor, " pairs"],
    lo: int,
    hi: int,
    previous: WindowIndex | None,
    step: AlphaStep,
    window: WindowIndex,
) -> Float[Tensor, ""]:
    """Fold `previous` into the averages, in place, and compare `window` with them.

    c̄ ← c̄ + α (c - c̄) with the rates and the α of `previous`; then, with those of `window`,
    Σ_{i<j} c s as float64, where s = |c - c̄| / max(c, c̄).
    """
    total = torch.zeros((), dtype=torch.float64, device=averages.device)
    size = max(1, PAIRS_AT_ONCE // window.n_latents)
    for start in range(lo, hi, size):
        end = min(start + size, hi)
        first = pairs_before(window.n_latents, lo)
        part = averages[
            pairs_before(window.n_latents, start) - first : pairs_before(window.n_latents, end)
            - first
        ]
        later = torch.ones(end - start, window.n_latents, dtype=torch.bool, device=part.device)
        later = later.triu_(start + 1)
        if previous is not None:
            counts = count_rows(previous, start, end)
            moved = _alpha(step, counts, previous, start, end)[later]
            rate = counts[later] / previous.n_tokens
            part.add_(moved * (rate - part))
        rate = count_rows(window, start, end)[later] / window.n_tokens
        larger = torch.maximum(rate, part).clamp_(min=torch.finfo(rate.dtype).tiny)
        total += (rate * ((rate - part).abs() / larger)).sum(dtype=torch.float64)
    return total


def lookup_dense(
    averages: Float[Tensor, " pairs"], n_latents: int, lo: int, hi: int, i: Tensor, j: Tensor
) -> Float[Tensor, "*n"]:
    """Return c̄_ij in any order of i and j; 0 where i = j, and for rows that are not held."""
    if not len(averages):
        return torch.zeros(i.shape, device=i.device)
    i, j = torch.minimum(i, j).long(), torch.maximum(i, j).long()
    held = (i != j) & (i >= lo) & (i < hi)
    place = i * n_latents - i * (i + 1) // 2 - i - 1 + j - pairs_before(n_latents, lo)
    return torch.where(held, averages[torch.where(held, place, 0)], 0.0)


def _alpha(step: AlphaStep, counts: Tensor, index: WindowIndex, lo: int, hi: int) -> Tensor:
    """Return α of every pair of some rows, from their counts [rows, F]."""
    if step.source == CONST:
        return torch.full(counts.shape, step.cap, device=counts.device)
    if step.source == UNION:
        n_i = index.masks.sum(-1).int()
        counts = n_i[lo:hi, None] + n_i[None, :] - counts
    return (counts / step.scale).clamp(max=step.cap)
