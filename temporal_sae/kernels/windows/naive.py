"""Counts of pairs of latents in plain torch: the meaning of every operation of this group.

A window is int32 [W, K] *rows*: the latents of each token ascending, -1 in the empty slots at the
end. Pairs (i, j) have i < j unless said otherwise; n_ij counts the tokens that have both.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

PAIRS_AT_ONCE = 2**22


class WindowIndex(NamedTuple):
    """A closed window, ready for questions about its pairs.

    Every back end keeps `rows` first, and beside them what it counts by.
    """

    rows: Int[Tensor, "W K"]
    masks: Float[Tensor, "F W"]

    @property
    def n_tokens(self) -> int:
        return self.rows.shape[0]

    @property
    def n_latents(self) -> int:
        return self.masks.shape[0]


def sorted_rows(indices: Int[Tensor, "tokens K"], n_latents: int) -> Int[Tensor, "tokens K"]:
    """Sort indices in any order, where -1 marks an empty slot anywhere, into rows.

    Raises:
        ValueError: an index outside [-1, F), or a latent twice in one token.
    """
    outside = (indices < -1) | (indices >= n_latents)
    if bool(outside.any()):
        wrong = int(indices[outside][0])
        raise ValueError(f"indices: found {wrong}, must be from -1 (empty) to {n_latents - 1}")
    filled = torch.where(indices >= 0, indices, n_latents).sort(-1).values
    twice = (filled[:, 1:] == filled[:, :-1]) & (filled[:, 1:] < n_latents)
    if bool(twice.any()):
        token = int(twice.any(-1).nonzero()[0])
        raise ValueError(f"indices: latent {int(filled[:, 1:][twice][0])} twice in token {token}")
    return torch.where(filled < n_latents, filled, -1).to(torch.int32)


def index_window(rows: Int[Tensor, "W K"], n_latents: int) -> WindowIndex:
    """Prepare a window for counting: here, mask the tokens in which each latent is active."""
    masks = torch.zeros(n_latents + 1, rows.shape[0], device=rows.device)
    filled = torch.where(rows >= 0, rows, n_latents).long()
    masks.scatter_(0, filled.T, 1.0)
    return WindowIndex(rows, masks[:n_latents])


def pair_counts(index: WindowIndex, i: Tensor, j: Tensor) -> Tensor:
    """Return n_ij for tensors i and j of one shape, in any order; n_ii counts the tokens of i."""
    counts = torch.zeros(i.numel(), dtype=torch.int32, device=i.device)
    size = max(1, PAIRS_AT_ONCE // max(1, index.n_tokens))
    for part in torch.arange(i.numel(), device=i.device).split(size):
        first, second = index.masks[i.flatten()[part]], index.masks[j.flatten()[part]]
        counts[part] = (first * second).sum(-1).int()
    return counts.view(i.shape)


def token_counts(index: WindowIndex, tokens: Int[Tensor, " M"]) -> Int[Tensor, "M K K"]:
    """Return n_ij of all pairs active in each of some tokens; 0 at i = j and for empty slots."""
    rows = index.rows[tokens]
    masks = index.masks[rows.clamp(min=0).long()] * (rows >= 0)[..., None]
    counts = (masks @ masks.mT).int()  # exact: float32 holds integers to 2^24
    counts.diagonal(dim1=1, dim2=2).zero_()
    return counts


def count_rows(index: WindowIndex, lo: int, hi: int) -> Int[Tensor, "rows F"]:
    """Return n_ij of the latents lo <= i < hi with all j > i; 0 elsewhere."""
    counts = (index.masks[lo:hi] @ index.masks.T).int()
    return counts.triu_(lo + 1)


def distinct_pairs(
    index: WindowIndex, lo: int, hi: int, min_count: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Return i, j and n_ij of the pairs with lo <= i < hi and n_ij >= min_count > 0.

    In order of (i, j), int32 each. A back end may pad the end with pairs of count 0.
    """
    counts = count_rows(index, lo, hi)
    i, j = (counts >= min_count).nonzero(as_tuple=True)
    return (i + lo).int(), j.int(), counts[i, j]


def count_histogram(index: WindowIndex, lo: int, hi: int) -> Int[Tensor, " W+1"]:
    """Count the pairs with lo <= i < hi that have each n_ij; entry 0 is left at 0."""
    counts = count_rows(index, lo, hi).flatten().long()
    return torch.bincount(counts[counts > 0], minlength=index.n_tokens + 1)
