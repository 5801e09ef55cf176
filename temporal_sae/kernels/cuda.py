"""The operations of `plain` for CUDA, in Triton and torch, without waiting for the device.

A window is kept as the mask of the tokens in which each latent is active, one byte each, and counts
are products of its rows (`triton_pairs`). Only `count_histogram`, the reading of a whole `PairMap`,
and its growing wait. Where a length would depend on the data there is padding instead.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from temporal_sae.kernels import triton_pairs
from temporal_sae.kernels.alpha import PAIR, UNION, AlphaStep
from temporal_sae.kernels.cuda_map import PairMap
from temporal_sae.kernels.plain import activation_rows, add_rows, lookup_dense, overlap_slopes
from temporal_sae.kernels.triton_launch import BLOCK, launch, n_blocks

BLOCK_W = 64  # tokens multiplied at a time; the mask is padded to a multiple of it
BYTES_AT_ONCE = 2**28
# Edge of a tile of pairs from so many latents on: large tiles read less a pair, but with few
# latents they would leave cores idle.
TILE_EDGES = ((4096, 128), (256, 64), (0, 32))
# Listing the pairs of a window (sorting them, above all) is taken to cost this many times as much
# a pair as counting all pairs by matrix product.
COST_OF_LISTING = 64

__all__ = [
    "PairMap",
    "WindowIndex",
    "activation_rows",
    "add_rows",
    "close_dense",
    "count_histogram",
    "count_rows",
    "distinct_pairs",
    "index_window",
    "lookup_dense",
    "overlap_slopes",
    "pair_counts",
    "sorted_rows",
    "token_counts",
]


class WindowIndex(NamedTuple):
    """A closed window, ready for questions about its pairs."""

    rows: Int[Tensor, "W K"]
    mask: Int8[Tensor, "F width"]

    @property
    def n_tokens(self) -> int:
        return self.rows.shape[0]

    @property
    def n_latents(self) -> int:
        return self.mask.shape[0]

    @property
    def n_listed(self) -> int:
        """Pairs of slots of all tokens: how many pairs a list by tokens has, most of them twice."""
        width = self.rows.shape[1]
        return self.n_tokens * width * (width - 1) // 2

    def active_tokens(self) -> Int[Tensor, " F"]:
        """n_ii."""
        return self.mask.sum(-1, dtype=torch.int32)


class _Tiles:
    """How the pairs i < j with lo <= i < hi are cut into tiles, a program each.

    Every row of tiles gets as many programs as the first, which has the most; those past the end
    have nothing to do.
    """

    def __init__(self, lo: int, hi: int, n_latents: int) -> None:
        edge = next(edge for at_least, edge in TILE_EDGES if n_latents >= at_least)
        rows, columns = -(-(hi - lo) // edge), -(-max(0, n_latents - lo - 1) // edge)
        self.n_programs = rows * columns
        self.arguments = (lo, hi, n_latents, rows, columns)
        self.options = {"TILE": edge, "BLOCK_W": BLOCK_W, "num_warps": 8 if edge == 128 else 4}

    def __len__(self) -> int:
        return self.n_programs


def sorted_rows(indices: Int[Tensor, "tokens K"], n_latents: int) -> Int[Tensor, "tokens K"]:
    """See `plain.sorted_rows`, but wrong indices raise nothing, since telling would have to wait.

    An index outside [-1, F), and the second of two equal ones, leave an empty slot instead.
    """
    indices = indices.long()  # F may be too large for the type that was given
    inside = (indices >= 0) & (indices < n_latents)
    rows = torch.where(inside, indices, n_latents).int().sort(-1).values
    rows[:, 1:] = torch.where(rows[:, 1:] == rows[:, :-1], n_latents, rows[:, 1:])
    rows = rows.sort(-1).values
    return torch.where(rows < n_latents, rows, -1)


def index_window(rows: Int[Tensor, "W K"], n_latents: int) -> WindowIndex:
    """See `plain.index_window`."""
    width = max(1, -(-rows.shape[0] // BLOCK_W)) * BLOCK_W
    mask = torch.zeros(n_latents + 1, width, dtype=torch.int8, device=rows.device)
    filled = torch.where(rows >= 0, rows, n_latents).long()
    mask.scatter_(0, filled.T, 1)
    return WindowIndex(rows.contiguous(), mask[:n_latents])


def pair_counts(index: WindowIndex, i: Tensor, j: Tensor) -> Tensor:
    """See `plain.pair_counts`."""
    i, j = torch.broadcast_tensors(i, j)
    counts = torch.empty(i.shape, dtype=torch.int32, device=i.device)
    size, edge = counts.numel(), 64
    listed = (index.mask, index.mask.shape[1], i.contiguous(), j.contiguous(), size)
    launch(
        triton_pairs.count_listed, -(-size // edge), counts, *listed, BLOCK=edge, BLOCK_W=BLOCK_W
    )
    return counts


def token_counts(index: WindowIndex, tokens: Int[Tensor, " M"]) -> Int[Tensor, "M K K"]:
    """See `plain.token_counts`."""
    width = index.rows.shape[1]
    counts = torch.empty(len(tokens), width, width, dtype=torch.int32, device=tokens.device)
    edge = 32 if width <= 32 else 64
    tiles = -(-width // edge)
    launch(
        triton_pairs.count_tokens,
        len(tokens) * tiles**2,
        counts,
        index.mask,
        index.mask.shape[1],
        index.rows,
        tokens.contiguous(),
        index.n_latents,
        width,
        tiles,
        TILE=edge,
        BLOCK_W=BLOCK_W,
    )
    return counts


def count_rows(index: WindowIndex, lo: int, hi: int) -> Int[Tensor, "rows F"]:
    """See `plain.count_rows`."""
    tiles = _Tiles(lo, hi, index.n_latents)
    counts = torch.zeros(hi - lo, index.n_latents, dtype=torch.int32, device=index.mask.device)
    arguments = (counts, index.mask, index.mask.shape[1], *tiles.arguments)
    launch(triton_pairs.count_tiles, len(tiles), *arguments, **tiles.options)
    return counts


def distinct_pairs(
    index: WindowIndex, lo: int, hi: int, min_count: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """See `plain.distinct_pairs`; padded to the number of pairs of slots, or of pairs of latents.

    The window's pairs of slots are sorted, or all pairs of these rows counted: whichever are fewer.
    """
    if index.n_listed < (hi - lo) * index.n_latents:
        i, j, n = _pairs_of_tokens(index, lo, hi)
    else:
        i, j, n = _pairs_of_rows(index, lo, hi)
    if min_count > 1:
        i, j, n = _to_front(n >= min_count, i, j, n)
    return i, j, n


def _pairs_of_rows(index: WindowIndex, lo: int, hi: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct pairs, from a count of all."""
    counts = count_rows(index, lo, hi)
    n = counts.flatten()
    pair = torch.arange(len(n), dtype=torch.int32, device=n.device)
    pair, n = _to_front(n > 0, pair, n)
    some = n > 0
    i, j = pair // index.n_latents + lo, pair % index.n_latents
    return torch.where(some, i, 0), torch.where(some, j, 0), n


def _pairs_of_tokens(index: WindowIndex, lo: int, hi: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct pairs, from the pairs of slots of each token, sorted; an equal run is a count."""
    width, n_latents = index.rows.shape[1], index.n_latents
    p, q = torch.triu_indices(width, width, 1, device=index.rows.device)
    i, j = index.rows[:, p], index.rows[:, q]
    kind = torch.int32 if n_latents**2 < 2**31 else torch.int64
    wanted = (j >= 0) & (i >= lo) & (i < hi)
    keys = torch.where(wanted, i.to(kind) * n_latents + j, n_latents**2).flatten().sort().values
    wanted = keys < n_latents**2
    changes = keys[1:] != keys[:-1]
    edge = wanted.new_ones(min(1, len(keys)))
    places = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
    keys, starts = _to_front(wanted & torch.cat([edge, changes]), keys, places)
    (ends,) = _to_front(wanted & torch.cat([changes, edge]), places + 1)
    return (keys // n_latents).int(), (keys % n_latents).int(), ends - starts


def _to_front(kept: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """The kept entries in their order, then zeros, as many as there were entries."""
    place = torch.where(kept, kept.cumsum(0) - 1, len(kept))
    padded = [column.new_zeros(len(kept) + 1) for column in columns]
    return tuple(p.scatter_(0, place, c)[:-1] for p, c in zip(padded, columns, strict=True))


def count_histogram(index: WindowIndex, lo: int, hi: int) -> Int[Tensor, " W+1"]:
    """See `plain.count_histogram`."""
    counts = torch.zeros(index.n_tokens + 1, dtype=torch.int64, device=index.mask.device)
    size = max(1, BYTES_AT_ONCE // (4 * index.n_latents))
    for start in range(lo, hi, size):
        part = count_rows(index, start, min(start + size, hi)).flatten()
        counts += torch.bincount(part, minlength=len(counts))
    counts[0] = 0
    return counts


def close_dense(
    averages: Float[Tensor, " pairs"],
    lo: int,
    hi: int,
    previous: WindowIndex | None,
    step: AlphaStep,
    window: WindowIndex,
) -> Float[Tensor, ""]:
    """See `plain.close_dense`.

    All pairs are counted tile by tile, or only those of the windows listed, where they are so much
    fewer that sorting them is the cheaper way; listing also takes some 60 bytes for each.
    """
    listed = sum(index.n_listed for index in (previous, window) if index is not None)
    few = COST_OF_LISTING * listed <= len(averages)
    if previous is not None:
        fold = _fold_listed if few and step.source == PAIR else _fold_tiles
        fold(averages, lo, hi, previous, step)
    compare = _compare_listed if few else _compare_tiles
    return compare(averages, lo, hi, window)


def _fold_tiles(averages: Tensor, lo: int, hi: int, index: WindowIndex, step: AlphaStep) -> None:
    tiles = _Tiles(lo, hi, index.n_latents)
    alone = index.active_tokens() if step.source == UNION else index.rows  # or anything: not read
    window = (index.mask, index.mask.shape[1], alone)
    numbers = (float(index.n_tokens), float(step.cap), float(step.scale))
    arguments = (averages, *window, *tiles.arguments, *numbers)
    launch(triton_pairs.fold_tiles, len(tiles), *arguments, SOURCE=step.source, **tiles.options)


def _compare_tiles(averages: Tensor, lo: int, hi: int, index: WindowIndex) -> Tensor:
    tiles = _Tiles(lo, hi, index.n_latents)
    sums = torch.zeros(len(tiles), dtype=torch.float64, device=averages.device)
    window = (index.mask, index.mask.shape[1])
    arguments = (averages, sums, *window, *tiles.arguments, float(index.n_tokens))
    launch(triton_pairs.compare_tiles, len(tiles), *arguments, **tiles.options)
    return sums.sum()


def _fold_listed(averages: Tensor, lo: int, hi: int, index: WindowIndex, step: AlphaStep) -> None:
    i, j, n = distinct_pairs(index, lo, hi)
    listed = (i, j, n, len(n), lo, index.n_latents)
    numbers = (float(index.n_tokens), float(step.cap), float(step.scale))
    launch(triton_pairs.fold_pairs, n_blocks(n), averages, *listed, *numbers, BLOCK=BLOCK)


def _compare_listed(averages: Tensor, lo: int, hi: int, index: WindowIndex) -> Tensor:
    i, j, n = distinct_pairs(index, lo, hi)
    sums = torch.zeros(n_blocks(n), dtype=torch.float64, device=averages.device)
    listed = (i, j, n, len(n), lo, index.n_latents, float(index.n_tokens))
    launch(triton_pairs.compare_pairs, n_blocks(n), averages, sums, *listed, BLOCK=BLOCK)
    return sums.sum()
