"""What each operation means, in plain torch; every other version is tested against this one.

A window is int32 [W, K] *rows*: the latents of each token ascending, -1 in the empty slots at the
end. Pairs (i, j) have i < j unless said otherwise. `averages` is the packed upper triangle of the
rows `lo` to `hi`: row i holds its F - 1 - i pairs (i, i + 1) … (i, F - 1), one row after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels.alpha import CONST, UNION, AlphaStep

PAIRS_AT_ONCE = 2**22
EPSILON = 1e-12  # the least norm that a row is divided by


class WindowIndex(NamedTuple):
    """A closed window, ready for questions about its pairs."""

    rows: Int[Tensor, "W K"]
    masks: Float[Tensor, "F W"]

    @property
    def n_tokens(self) -> int:
        return self.rows.shape[0]

    @property
    def n_latents(self) -> int:
        return self.masks.shape[0]


def sorted_rows(indices: Int[Tensor, "tokens K"], n_latents: int) -> Int[Tensor, "tokens K"]:
    """Rows from indices in any order, where -1 marks an empty slot anywhere.

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
    """Prepare a window: here, the mask of the tokens in which each latent is active."""
    masks = torch.zeros(n_latents + 1, rows.shape[0], device=rows.device)
    filled = torch.where(rows >= 0, rows, n_latents).long()
    masks.scatter_(0, filled.T, 1.0)
    return WindowIndex(rows, masks[:n_latents])


def pair_counts(index: WindowIndex, i: Tensor, j: Tensor) -> Tensor:
    """n_ij for tensors i and j of one shape, in any order; n_ii counts the tokens that have i."""
    counts = torch.zeros(i.numel(), dtype=torch.int32, device=i.device)
    size = max(1, PAIRS_AT_ONCE // max(1, index.n_tokens))
    for part in torch.arange(i.numel(), device=i.device).split(size):
        first, second = index.masks[i.flatten()[part]], index.masks[j.flatten()[part]]
        counts[part] = (first * second).sum(-1).int()
    return counts.view(i.shape)


def token_counts(index: WindowIndex, tokens: Int[Tensor, " M"]) -> Int[Tensor, "M K K"]:
    """n_ij of all pairs of latents active in some tokens; 0 at i = j and for empty slots."""
    rows = index.rows[tokens]
    masks = index.masks[rows.clamp(min=0).long()] * (rows >= 0)[..., None]
    counts = (masks @ masks.mT).int()  # exact: float32 holds integers to 2^24
    counts.diagonal(dim1=1, dim2=2).zero_()
    return counts


def count_rows(index: WindowIndex, lo: int, hi: int) -> Int[Tensor, "rows F"]:
    """n_ij of the latents i from `lo` to `hi` with all j > i; 0 elsewhere."""
    counts = (index.masks[lo:hi] @ index.masks.T).int()
    return counts.triu_(lo + 1)


def distinct_pairs(
    index: WindowIndex, lo: int, hi: int, min_count: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """i, j and n_ij of the pairs with lo <= i < hi and n_ij >= min_count > 0, in order of (i, j).

    int32 each. A version may pad the end with pairs of count 0.
    """
    counts = count_rows(index, lo, hi)
    i, j = (counts >= min_count).nonzero(as_tuple=True)
    return (i + lo).int(), j.int(), counts[i, j]


def count_histogram(index: WindowIndex, lo: int, hi: int) -> Int[Tensor, " W+1"]:
    """How many pairs with lo <= i < hi have each count; entry 0 is left at 0."""
    counts = count_rows(index, lo, hi).flatten().long()
    return torch.bincount(counts[counts > 0], minlength=index.n_tokens + 1)


def pairs_before(n_latents: int, row: int) -> int:
    """Pairs (i, j), i < j, with i below `row`: where that row starts in the packed triangle."""
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
            moved = alpha(step, counts, previous, start, end)[later]
            rate = counts[later] / previous.n_tokens
            part.add_(moved * (rate - part))
        rate = count_rows(window, start, end)[later] / window.n_tokens
        larger = torch.maximum(rate, part).clamp_(min=torch.finfo(rate.dtype).tiny)
        total += (rate * ((rate - part).abs() / larger)).sum(dtype=torch.float64)
    return total


def lookup_dense(
    averages: Float[Tensor, " pairs"], n_latents: int, lo: int, hi: int, i: Tensor, j: Tensor
) -> Float[Tensor, "*n"]:
    """c̄_ij in any order of i and j; 0 where i = j, and for rows that are not held."""
    if not len(averages):
        return torch.zeros(i.shape, device=i.device)
    i, j = torch.minimum(i, j).long(), torch.maximum(i, j).long()
    held = (i != j) & (i >= lo) & (i < hi)
    place = i * n_latents - i * (i + 1) // 2 - i - 1 + j - pairs_before(n_latents, lo)
    return torch.where(held, averages[torch.where(held, place, 0)], 0.0)


def alpha(step: AlphaStep, counts: Tensor, index: WindowIndex, lo: int, hi: int) -> Tensor:
    """α of every pair of some rows, from their counts [rows, F]."""
    if step.source == CONST:
        return torch.full(counts.shape, step.cap, device=counts.device)
    if step.source == UNION:
        alone = index.masks.sum(-1).int()
        counts = alone[lo:hi, None] + alone[None, :] - counts
    return (counts / step.scale).clamp(max=step.cap)


def overlap_slopes(
    gram: Float[Tensor, "m k k"], weights: Float[Tensor, "m k k"], penalty: str
) -> tuple[Float[Tensor, ""], Float[Tensor, "m k k"]]:
    """Σ w g(cos) over all pairs of some rows X, and T with gradient T @ X by those rows.

    Args:
        gram: X Xᵀ, whose diagonal holds the squared norms; may be overwritten.
        weights: symmetric, 0 on the diagonal.
        penalty: `square` or `abs`, which is g.
    """
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    inverse = 1 / norms.clamp(min=EPSILON)
    cosine = gram * inverse[..., :, None] * inverse[..., None, :]
    value, slope = overlap_and_slope(penalty, cosine, weights)
    slope.mul_(2)
    # A row shorter than epsilon is divided by a constant, so nothing is taken out along it.
    along = (slope * cosine).sum(-1) * (norms > EPSILON)
    slope.diagonal(dim1=-2, dim2=-1).copy_(-along)
    return value, slope.mul_(inverse[..., :, None]).mul_(inverse[..., None, :])


def overlap_and_slope(penalty: str, inner: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Σ w g(inner), and w g'(inner)."""
    if penalty == "square":
        slope = weights * inner
        return (slope * inner).sum(), slope.mul_(2)
    slope = weights * inner.sign()
    return (slope * inner).sum(), slope


def add_rows(
    into: Float[Tensor, "F d"], rows: Int[Tensor, " n"], gradients: Float[Tensor, "n d"]
) -> None:
    """into[rows[r]] += gradients[r] for every r, in order: a row may come several times."""
    into.index_add_(0, rows, gradients)


def activation_rows(
    rows: Int[Tensor, "B K"],
    values: Float[Tensor, "B K"],
    weights: Float[Tensor, "rows F"],
    lo: int,
    penalty: str,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B K"]]:
    """Σ_{i<j} w_ij g(f_iᵀf_j / B) over some rows of the weights, and its gradient by the values.

    Args:
        rows: sorted latents of a batch; `values` lie beside them, 0 in empty slots.
        weights: w_ij for i from `lo`, 0 where j <= i.
        penalty: `square` or `abs`, which is g.
    """
    n_tokens, n_latents = rows.shape[0], weights.shape[1]
    slots = torch.where(rows >= 0, rows, n_latents).long()
    acts = values.new_zeros(n_tokens, n_latents + 1).scatter(1, slots, values)[:, :n_latents]
    part = acts[:, lo : lo + weights.shape[0]]
    inner = part.T @ acts / n_tokens
    if penalty == "square":
        total, slope = (weights * inner.square()).sum(), 2 * weights * inner
    else:
        total, slope = (weights * inner.abs()).sum(), weights * inner.sign()
    by_acts = torch.zeros_like(acts)
    by_acts += part @ slope
    by_acts[:, lo : lo + weights.shape[0]] += acts @ slope.T
    gradient = torch.nn.functional.pad(by_acts, (0, 1)).gather(1, slots) / n_tokens
    return total, gradient


class PairMap:
    """A float32 value for each of the pairs that have one: int64 keys ≥ 0, kept in order.

    Args:
        device: where keys and values live.
        key_bits: every key is below 2^key_bits.
    """

    def __init__(self, device: torch.device, key_bits: int) -> None:
        self.keys = torch.empty(0, dtype=torch.int64, device=device)
        self.values = torch.empty(0, device=device)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def at_most(self) -> int:
        """Never less than the number of keys, and known without waiting."""
        return len(self)

    def lookup(self, keys: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The values of some keys, 0 where there is none."""
        if not len(self.keys):
            return torch.zeros(keys.shape, device=keys.device)
        place = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.values[place], 0.0)

    def store(self, keys: Int[Tensor, " n"], values: Float[Tensor, " n"]) -> None:
        """Set values ≥ 0 of distinct keys, new ones or not; a key of -1 is passed over."""
        keys, values = keys[keys >= 0], values[keys >= 0]
        kept = ~torch.isin(self.keys, keys)
        keys, order = torch.cat([self.keys[kept], keys]).sort()
        self.keys, self.values = keys, torch.cat([self.values[kept], values])[order]

    def items(self) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """All keys in order, and their values."""
        return self.keys, self.values

    def pieces(self) -> Iterator[tuple[Int[Tensor, " n"], Float[Tensor, " n"]]]:
        """All keys and their values, some at a time, in no order."""
        yield self.keys, self.values

    def update_all(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Replace all values by `change(keys, values)`, which looks at each pair alone."""
        self.values = change(self.keys, self.values)

    def drop_below(self, bound: float) -> None:
        """Forget the keys whose value is below a bound."""
        kept = self.values >= bound
        self.keys, self.values = self.keys[kept], self.values[kept]

    def nbytes(self) -> int:
        """Bytes held."""
        return self.keys.nbytes + self.values.nbytes
