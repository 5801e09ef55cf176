"""Screening by products of 8-bit integers: a bound on their error leaves few to compute exactly.

Encoder rows are rounded and multiplied a tile at a time, and what cannot be among the wanted ones
is dropped at once. The bound is six standard deviations of the rounding error, whose distribution
is that of a dither and not of the data (see `rounding`): the chance that an entry is misjudged is
below exp(-18).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from temporal_sae.kernels import selection
from temporal_sae.kernels.screening import naive
from temporal_sae.kernels.screening.candidates import UNSETTLED, Candidates, Tile
from temporal_sae.kernels.screening.naive import Found
from temporal_sae.kernels.screening.rounding import dithers, has_vnni, room_for, round_rows
from temporal_sae.kernels.sparse_products import dot_rows
from temporal_sae.kernels.threads import as_array

TILE = 1024  # latents
# Candidates of a token between two tiles: times k, or times what tokens may have on average where
# they differ; but at least so many.
ROOM, ROOM_OF_ALL, LEAST_ROOM = 3, 6, 512
# Beyond these the whole product is quicker:
MOST_CANDIDATES = 4  # of a sample, for each one of it that is above the bar for certain
MOST_ABOVE = 1 / 16  # of all latents
MOST_UNSETTLED = 1 / 8  # of the tokens


def is_fast(device: torch.device) -> bool:
    return has_vnni()


def largest(
    x: Float[Tensor, "B d"], W: Float[Tensor, "F d"], bias: Float[Tensor, " F"], k: int
) -> Found | None:
    products = Products(x, W, bias)
    kept = Candidates(len(x), max(LEAST_ROOM, ROOM * k), TILE)
    sample = products.of_sample()
    rank = kept.guess_bars(sample, k, len(W))
    if kept.expected(sample) > MOST_CANDIDATES * rank * len(x):
        return None
    for tile in products:
        kept.add(tile)
        kept.raise_bars(k)
    kept.raise_bars(k, now=True)
    lists, exact = _exactly(kept, x, W, bias)
    values, places = selection.select_topk(exact, k)
    found = _found(kept, values, _taken(lists, places, -1))
    unsettled = _unsettled(kept) | (values[:, -1] < torch.from_numpy(kept.guesses))
    return _settled(found, unsettled, x, lambda rows: naive.largest(rows, W, bias, k))


def largest_of_all(
    x: Float[Tensor, "B d"], W: Float[Tensor, "F d"], bias: Float[Tensor, " F"], n: int
) -> Found | None:
    room = max(TILE, ROOM_OF_ALL * n // max(1, len(x)))
    products, kept = Products(x, W, bias), Candidates(len(x), room, TILE)
    sample = products.of_sample()
    rank = kept.guess_common_bar(sample, n, len(W))
    if kept.expected(sample) > MOST_CANDIDATES * rank:
        return None
    for tile in products:
        kept.add(tile)
        kept.raise_common_bar(n)
    kept.raise_common_bar(n, now=True)
    lists, exact = _exactly(kept, x, W, bias)
    in_full = torch.addmm(bias, x[_unsettled(kept)], W.T)
    every = torch.cat([exact.flatten(), in_full.flatten()])[None] if len(in_full) else exact
    least = selection.kth_largest(every, n)
    if float(least) < kept.guesses.max(initial=0):  # what lies between the two was not kept
        return None
    below = torch.nextafter(least, torch.zeros_like(least)).expand(len(W))
    return _above(kept, lists, exact, x, W, bias, below)


def above(
    x: Float[Tensor, "B d"],
    W: Float[Tensor, "F d"],
    bias: Float[Tensor, " F"],
    thresholds: Float[Tensor, " F"],
) -> Found | None:
    products = Products(x, W, bias - thresholds)
    kept = Candidates(len(x), max(TILE, int(MOST_ABOVE * len(W))), TILE)
    sample = products.of_sample()
    if kept.expected(sample) > MOST_ABOVE * sample.scores.size:
        return None
    for tile in products:
        kept.add(tile)
    lists, exact = _exactly(kept, x, W, bias)
    return _above(kept, lists, exact, x, W, bias, thresholds)


class Products:
    """Rounded activations times rounded encoder rows, for a tile of latents after the other.

    Every tile is in the memory of the one before.
    """

    def __init__(self, x: Tensor, W: Tensor, bias: Tensor) -> None:
        self._rows, self._bias = as_array(W), as_array(bias)
        (n_tokens, d), tile = x.shape, min(TILE, len(W))
        # A wide dimension would take the levels of all others: a part of it goes to the latents.
        widths = np.sqrt(as_array(x.square().mean(0).sqrt()))
        self._widths = np.where((widths > 0) & np.isfinite(widths), widths, np.float32(1))
        self._of_tokens, self._of_latents = dithers(d)
        self._tokens, self._latents = room_for(n_tokens, d), room_for(tile, d)
        dither = (self._of_tokens, self._of_latents)
        round_rows(as_array(x), 1 / self._widths, *dither, self._tokens)
        self._scores = torch.empty(n_tokens * tile, dtype=torch.int32)

    def of_sample(self) -> Tile:
        """Return a tile of latents from all over, a quarter of them at most."""
        n = len(self._rows)
        step = -(-n // min(TILE, -(-n // 4)))
        return self._tile(slice(0, n, step))

    def __iter__(self) -> Iterator[Tile]:
        for first in range(0, len(self._rows), TILE):
            yield self._tile(slice(first, first + TILE))

    def _tile(self, chosen: slice) -> Tile:
        rows, bias = self._rows[chosen], self._bias[chosen]
        latents = self._latents.first(len(rows))
        round_rows(rows, self._widths, self._of_latents, self._of_tokens, latents)
        q = self._tokens.q
        scores = self._scores[: len(q) * len(rows)].view(len(q), len(rows))
        torch._int_mm(torch.from_numpy(q), torch.from_numpy(latents.q).T, out=scores)
        constant = float((self._of_tokens * self._of_latents).sum())
        return Tile(scores.numpy(), self._tokens, latents, bias, constant, chosen.start)


def _exactly(kept: Candidates, x: Tensor, W: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the candidates, -1 in empty slots, and their pre-activations, 0 there."""
    lists = torch.from_numpy(kept.lists())
    exact = dot_rows(x, lists, W).add_(bias[lists.clamp(min=0)])
    return lists, exact.masked_fill_(lists < 0, 0.0)


def _above(
    kept: Candidates,
    lists: Tensor,
    exact: Tensor,
    x: Tensor,
    W: Tensor,
    bias: Tensor,
    thresholds: Tensor,
) -> Found | None:
    """Return the candidates above their thresholds, which are not negative."""
    higher = exact.masked_fill(exact <= thresholds[lists.clamp(min=0)], 0.0)
    places = selection.list_above(higher, thresholds.new_zeros(lists.shape[1]))
    found = _found(kept, _taken(exact, places, 0.0), _taken(lists, places, -1))
    return _settled(found, _unsettled(kept), x, lambda rows: naive.above(rows, W, bias, thresholds))


def _taken(matrix: Tensor, places: Tensor, empty: float) -> Tensor:
    """Return the entries at these places of each row; a place may be -1."""
    return matrix.gather(1, places.clamp(min=0)).masked_fill(places < 0, empty)


def _found(kept: Candidates, values: Tensor, indices: Tensor) -> Found:
    return Found(values, indices, int(np.maximum(kept.counts, 0).sum()), 0)


def _unsettled(kept: Candidates) -> Bool[Tensor, " B"]:
    return torch.from_numpy(kept.counts == UNSETTLED)


def _settled(
    found: Found,
    unsettled: Bool[Tensor, " B"],
    x: Tensor,
    in_full: Callable[[Tensor], Found | None],
) -> Found | None:
    """Return what was found, and by the whole product for tokens of which too little is known."""
    n = int(unsettled.sum())
    if n == 0:
        return found
    if n > MOST_UNSETTLED * len(x):
        return None
    rest = in_full(x[unsettled])
    assert rest is not None
    width = max(found.indices.shape[1], rest.indices.shape[1])
    both = []
    for settled, others, empty in zip(found[:2], rest[:2], (0, -1), strict=True):
        filled = pad(settled, (0, width - settled.shape[1]), value=empty)
        filled[unsettled] = pad(others, (0, width - others.shape[1]), value=empty)
        both.append(filled)
    values, indices = both
    return Found(values, indices, found.n_scored + rest.n_scored, n)
