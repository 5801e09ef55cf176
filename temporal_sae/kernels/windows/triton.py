"""Counts of pairs for CUDA, in Triton and torch; only `count_histogram` waits for the device.

A window is kept as the mask int8 [F, width] of the tokens in which each latent is active, and every
count is a product of its rows: bytes multiplied on the tensor cores and added up as int32. `width`
is a multiple of `BLOCK_W`, so no load needs a mask. Where a length would depend on the data there
is padding instead.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Int, Int8
from torch import Tensor

from temporal_sae.kernels.triton_launch import launch

BLOCK_W = 64  # tokens multiplied at a time; the mask is padded to a multiple of it
BYTES_AT_ONCE = 2**28
# Edge of a tile of pairs from so many latents on: large tiles read less a pair, but with few
# latents they would leave cores idle.
TILE_EDGES = ((4096, 128), (256, 64), (0, 32))
TILE_ROWS_AT_ONCE = tl.constexpr(16)  # tiles that run together then share rows of the mask in L2


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
        """Pairs of slots of all tokens: the length of a list that repeats most pairs."""
        width = self.rows.shape[1]
        return self.n_tokens * width * (width - 1) // 2

    def active_tokens(self) -> Int[Tensor, " F"]:
        """Return n_ii."""
        return self.mask.sum(-1, dtype=torch.int32)


class Tiles:
    """The pairs i < j with lo <= i < hi, cut into tiles of a program each.

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
    """Leave an empty slot for an index that is wrong or comes again: raising would have to wait."""
    indices = indices.long()  # F may be too large for the type that was given
    inside = (indices >= 0) & (indices < n_latents)
    rows = torch.where(inside, indices, n_latents).int().sort(-1).values
    rows[:, 1:] = torch.where(rows[:, 1:] == rows[:, :-1], n_latents, rows[:, 1:])
    rows = rows.sort(-1).values
    return torch.where(rows < n_latents, rows, -1)


def index_window(rows: Int[Tensor, "W K"], n_latents: int) -> WindowIndex:
    width = max(1, -(-rows.shape[0] // BLOCK_W)) * BLOCK_W
    mask = torch.zeros(n_latents + 1, width, dtype=torch.int8, device=rows.device)
    filled = torch.where(rows >= 0, rows, n_latents).long()
    mask.scatter_(0, filled.T, 1)
    return WindowIndex(rows.contiguous(), mask[:n_latents])


def pair_counts(index: WindowIndex, i: Tensor, j: Tensor) -> Tensor:
    i, j = torch.broadcast_tensors(i, j)
    counts = torch.empty(i.shape, dtype=torch.int32, device=i.device)
    size, edge = counts.numel(), 64
    listed = (index.mask, index.mask.shape[1], i.contiguous(), j.contiguous(), size)
    launch(_count_listed_kernel, -(-size // edge), counts, *listed, BLOCK=edge, BLOCK_W=BLOCK_W)
    return counts


def token_counts(index: WindowIndex, tokens: Int[Tensor, " M"]) -> Int[Tensor, "M K K"]:
    width = index.rows.shape[1]
    counts = torch.empty(len(tokens), width, width, dtype=torch.int32, device=tokens.device)
    edge = 32 if width <= 32 else 64
    tiles = -(-width // edge)
    launch(
        _count_tokens_kernel,
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
    tiles = Tiles(lo, hi, index.n_latents)
    counts = torch.zeros(hi - lo, index.n_latents, dtype=torch.int32, device=index.mask.device)
    arguments = (counts, index.mask, index.mask.shape[1], *tiles.arguments)
    launch(_count_tiles_kernel, len(tiles), *arguments, **tiles.options)
    return counts


def distinct_pairs(
    index: WindowIndex, lo: int, hi: int, min_count: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the window's pairs of slots or count all pairs of these rows, whichever are fewer.

    The end is padded up to that number.
    """
    if index.n_listed < (hi - lo) * index.n_latents:
        i, j, n = _pairs_of_tokens(index, lo, hi)
    else:
        i, j, n = _pairs_of_rows(index, lo, hi)
    if min_count > 1:
        i, j, n = _to_front(n >= min_count, i, j, n)
    return i, j, n


def _pairs_of_rows(index: WindowIndex, lo: int, hi: int) -> tuple[Tensor, Tensor, Tensor]:
    """List distinct pairs from a count of all."""
    counts = count_rows(index, lo, hi)
    n = counts.flatten()
    pair = torch.arange(len(n), dtype=torch.int32, device=n.device)
    pair, n = _to_front(n > 0, pair, n)
    some = n > 0
    i, j = pair // index.n_latents + lo, pair % index.n_latents
    return torch.where(some, i, 0), torch.where(some, j, 0), n


def _pairs_of_tokens(index: WindowIndex, lo: int, hi: int) -> tuple[Tensor, Tensor, Tensor]:
    """List distinct pairs from the sorted pairs of slots of all tokens; a run of equals counts."""
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
    """Return the kept entries in their order, then zeros, as many as there were entries."""
    place = torch.where(kept, kept.cumsum(0) - 1, len(kept))
    padded = [column.new_zeros(len(kept) + 1) for column in columns]
    return tuple(p.scatter_(0, place, c)[:-1] for p, c in zip(padded, columns, strict=True))


def count_histogram(index: WindowIndex, lo: int, hi: int) -> Int[Tensor, " W+1"]:
    counts = torch.zeros(index.n_tokens + 1, dtype=torch.int64, device=index.mask.device)
    size = max(1, BYTES_AT_ONCE // (4 * index.n_latents))
    for start in range(lo, hi, size):
        part = count_rows(index, start, min(start + size, hi)).flatten()
        counts += torch.bincount(part, minlength=len(counts))
    counts[0] = 0
    return counts


@triton.jit
def count_tile(mask, width, i, j, n_latents, BLOCK_W: tl.constexpr):
    """Return n_ij of all pairs of some latents; where there is no such latent, of others."""
    w = tl.arange(0, BLOCK_W)
    first = tl.minimum(tl.maximum(i, 0), n_latents - 1).to(tl.int64)
    second = tl.minimum(tl.maximum(j, 0), n_latents - 1).to(tl.int64)
    first = mask + first[:, None] * width + w[None, :]
    second = mask + second[None, :] * width + w[:, None]
    counts = tl.full((i.shape[0], j.shape[0]), 0, tl.int32)
    for start in range(0, width, BLOCK_W):
        counts = tl.dot(tl.load(first + start), tl.load(second + start), counts, out_dtype=tl.int32)
    return counts


@triton.jit
def corner(lo, tile_rows, tile_columns, TILE: tl.constexpr):
    """Return the first i and j of this program's tile; in column 0, j starts one after i."""
    row, column = tl.program_id(0) // tile_columns, tl.program_id(0) % tile_columns
    row, column = tl.swizzle2d(row, column, tile_rows, tile_columns, TILE_ROWS_AT_ONCE)
    return lo + row * TILE, lo + row * TILE + 1 + column * TILE


@triton.jit
def pairs_here(i, j, hi, n_latents):
    """Return which pairs of a tile exist."""
    return (i < hi)[:, None] & (j < n_latents)[None, :] & (i[:, None] < j[None, :])


NOT_SPECIAL = ["lo", "hi", "n_latents", "tile_rows", "tile_columns"]  # or each value is compiled


@triton.jit(do_not_specialize=NOT_SPECIAL)
def _count_tiles_kernel(
    out,
    mask,
    width,
    lo,
    hi,
    n_latents,
    tile_rows,
    tile_columns,
    TILE: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Write n_ij of a tile, j > i, into int32 [hi - lo, F]."""
    first, second = corner(lo, tile_rows, tile_columns, TILE)
    if second >= n_latents:
        return
    i, j = first + tl.arange(0, TILE), second + tl.arange(0, TILE)
    counts = count_tile(mask, width, i, j, n_latents, BLOCK_W)
    places = out + (i - lo).to(tl.int64)[:, None] * n_latents + j[None, :]
    tl.store(places, counts, mask=pairs_here(i, j, hi, n_latents))


@triton.jit(do_not_specialize=["n_latents", "n_slots", "tiles"])
def _count_tokens_kernel(
    out,
    mask,
    width,
    rows,
    tokens,
    n_latents,
    n_slots,
    tiles,
    TILE: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Write n_ij of a tile of the pairs of one listed token, into int32 [tokens, K, K]."""
    m = tl.program_id(0) // (tiles * tiles)
    p = tl.program_id(0) // tiles % tiles * TILE + tl.arange(0, TILE)
    q = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    row = rows + tl.load(tokens + m).to(tl.int64) * n_slots
    i = tl.load(row + p, mask=p < n_slots, other=-1)
    j = tl.load(row + q, mask=q < n_slots, other=-1)
    counts = count_tile(mask, width, i, j, n_latents, BLOCK_W)
    filled = (i >= 0)[:, None] & (j >= 0)[None, :] & (p[:, None] != q[None, :])
    places = out + (m.to(tl.int64) * n_slots + p)[:, None] * n_slots + q[None, :]
    inside = (p < n_slots)[:, None] & (q < n_slots)[None, :]
    tl.store(places, tl.where(filled, counts, 0), mask=inside)


@triton.jit(do_not_specialize=["size"])
def _count_listed_kernel(out, mask, width, i, j, size, BLOCK: tl.constexpr, BLOCK_W: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    w = tl.arange(0, BLOCK_W)
    first = tl.load(i + at, mask=at < size, other=0).to(tl.int64)[:, None] * width + w[None, :]
    second = tl.load(j + at, mask=at < size, other=0).to(tl.int64)[:, None] * width + w[None, :]
    both = tl.full((BLOCK, BLOCK_W), 0, tl.int32)
    for start in range(0, width, BLOCK_W):
        both += tl.load(mask + first + start) & tl.load(mask + second + start)
    tl.store(out + at, tl.sum(both, 1), mask=at < size)
