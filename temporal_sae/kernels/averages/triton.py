"""Running averages for CUDA, in Triton, without waiting for the device.

Divisions round as IEEE says, and launches forbid fused multiply-adds, which round once where the
formula rounds twice: averages then agree to the bit with the other back ends.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from temporal_sae.kernels.averages.naive import PAIR, UNION, AlphaStep, lookup_dense
from temporal_sae.kernels.triton_launch import BLOCK, launch, n_blocks
from temporal_sae.kernels.windows.triton import (
    NOT_SPECIAL,
    Tiles,
    WindowIndex,
    corner,
    count_tile,
    distinct_pairs,
    pairs_here,
)

__all__ = ["close_dense", "lookup_dense"]

# Listing the pairs of a window (sorting them, above all) is taken to cost this many times as much
# a pair as counting all pairs by matrix product.
COST_OF_LISTING = 64

PAIR_SOURCE, UNION_SOURCE = tl.constexpr(PAIR), tl.constexpr(UNION)
TINY = tl.constexpr(2.0**-126)


def close_dense(
    averages: Float[Tensor, " pairs"],
    lo: int,
    hi: int,
    previous: WindowIndex | None,
    step: AlphaStep,
    window: WindowIndex,
) -> Float[Tensor, ""]:
    """Count all pairs tile by tile, or list those of the windows where they are so few.

    Listing means sorting, and takes some 60 bytes per pair.
    """
    listed = sum(index.n_listed for index in (previous, window) if index is not None)
    few = COST_OF_LISTING * listed <= len(averages)
    if previous is not None:
        fold = _fold_listed if few and step.source == PAIR else _fold_tiles
        fold(averages, lo, hi, previous, step)
    compare = _compare_listed if few else _compare_tiles
    return compare(averages, lo, hi, window)


def _fold_tiles(averages: Tensor, lo: int, hi: int, index: WindowIndex, step: AlphaStep) -> None:
    tiles = Tiles(lo, hi, index.n_latents)
    alone = index.active_tokens() if step.source == UNION else index.rows  # or anything: not read
    window = (index.mask, index.mask.shape[1], alone)
    numbers = (float(index.n_tokens), float(step.cap), float(step.scale))
    arguments = (averages, *window, *tiles.arguments, *numbers)
    launch(_fold_tiles_kernel, len(tiles), *arguments, SOURCE=step.source, **tiles.options)


def _compare_tiles(averages: Tensor, lo: int, hi: int, index: WindowIndex) -> Tensor:
    tiles = Tiles(lo, hi, index.n_latents)
    sums = torch.zeros(len(tiles), dtype=torch.float64, device=averages.device)
    window = (index.mask, index.mask.shape[1])
    arguments = (averages, sums, *window, *tiles.arguments, float(index.n_tokens))
    launch(_compare_tiles_kernel, len(tiles), *arguments, **tiles.options)
    return sums.sum()


def _fold_listed(averages: Tensor, lo: int, hi: int, index: WindowIndex, step: AlphaStep) -> None:
    i, j, n = distinct_pairs(index, lo, hi)
    listed = (i, j, n, len(n), lo, index.n_latents)
    numbers = (float(index.n_tokens), float(step.cap), float(step.scale))
    launch(_fold_pairs_kernel, n_blocks(n), averages, *listed, *numbers, BLOCK=BLOCK)


def _compare_listed(averages: Tensor, lo: int, hi: int, index: WindowIndex) -> Tensor:
    i, j, n = distinct_pairs(index, lo, hi)
    sums = torch.zeros(n_blocks(n), dtype=torch.float64, device=averages.device)
    listed = (i, j, n, len(n), lo, index.n_latents, float(index.n_tokens))
    launch(_compare_pairs_kernel, n_blocks(n), averages, sums, *listed, BLOCK=BLOCK)
    return sums.sum()


@triton.jit
def _pairs_before(row, lo, n_latents):
    """Count the pairs of the rows from `lo` to `row`: where a row starts in the packed triangle."""
    rows = (row - lo).to(tl.int64)
    return rows * (n_latents - lo) - rows * (rows + 1) // 2


@triton.jit
def _places(i, j, first, n_latents):
    """Return where a tile's pairs are, from the start of row `first` on; 32 bits save registers."""
    rows = i - first
    starts = rows * (n_latents - first) - rows * (rows + 1) // 2
    return starts[:, None] + (j[None, :] - i[:, None] - 1)


@triton.jit
def _moved(average, count, n_tokens, alpha):
    """Return c̄ + α (c - c̄)."""
    return average + alpha * (tl.div_rn(count.to(tl.float32), n_tokens) - average)


@triton.jit
def _capped(count, cap, scale):
    """Return α = min(cap, n / scale)."""
    return tl.minimum(tl.div_rn(count.to(tl.float32), scale), cap)


@triton.jit
def _unstable_part(average, count, n_tokens):
    """Return c s = c |c - c̄| / max(c, c̄)."""
    rate = tl.div_rn(count.to(tl.float32), n_tokens)
    larger = tl.maximum(tl.maximum(rate, average), TINY)
    return rate * tl.div_rn(tl.abs(rate - average), larger)


@triton.jit(do_not_specialize=NOT_SPECIAL)
def _fold_tiles_kernel(
    averages,
    mask,
    width,
    alone,
    lo,
    hi,
    n_latents,
    tile_rows,
    tile_columns,
    n_tokens,
    cap,
    scale,
    SOURCE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Fold a window into a tile of averages; `alone` is n_ii, used by UNION only."""
    first, second = corner(lo, tile_rows, tile_columns, TILE)
    if second >= n_latents:
        return
    i, j = first + tl.arange(0, TILE), second + tl.arange(0, TILE)
    counts = count_tile(mask, width, i, j, n_latents, BLOCK_W)
    moving = pairs_here(i, j, hi, n_latents)
    if SOURCE == PAIR_SOURCE:  # nothing else has an α above 0, so nothing else is read or written
        moving = moving & (counts > 0)
        alphas = _capped(counts, cap, scale)
    elif SOURCE == UNION_SOURCE:
        n_i = tl.load(alone + i, mask=i < n_latents, other=0)[:, None]
        n_j = tl.load(alone + j, mask=j < n_latents, other=0)[None, :]
        alphas = _capped(n_i + n_j - counts, cap, scale)
    else:
        alphas = tl.full((TILE, TILE), 0.0, tl.float32) + cap
    places = averages + _pairs_before(first, lo, n_latents) + _places(i, j, first, n_latents)
    old = tl.load(places, mask=moving, other=0.0)
    tl.store(places, _moved(old, counts, n_tokens, alphas), mask=moving)


@triton.jit(do_not_specialize=NOT_SPECIAL)
def _compare_tiles_kernel(
    averages,
    sums,
    mask,
    width,
    lo,
    hi,
    n_latents,
    tile_rows,
    tile_columns,
    n_tokens,
    TILE: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Write Σ c s of a tile, one float64 each, where the tile has pairs."""
    first, second = corner(lo, tile_rows, tile_columns, TILE)
    if second >= n_latents:
        return
    i, j = first + tl.arange(0, TILE), second + tl.arange(0, TILE)
    counts = count_tile(mask, width, i, j, n_latents, BLOCK_W)
    active = pairs_here(i, j, hi, n_latents) & (counts > 0)
    places = averages + _pairs_before(first, lo, n_latents) + _places(i, j, first, n_latents)
    average = tl.load(places, mask=active, other=0.0)
    parts = tl.where(active, _unstable_part(average, counts, n_tokens), 0.0)
    tl.store(sums + tl.program_id(0), tl.sum(tl.sum(parts, 0).to(tl.float64), 0))


@triton.jit(do_not_specialize=["lo", "n_latents", "size"])
def _fold_pairs_kernel(
    averages, i, j, counts, size, lo, n_latents, n_tokens, cap, scale, BLOCK: tl.constexpr
):
    """Fold listed pairs into the averages, with α from n_ij; a count of 0 is passed over."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(counts + at, mask=at < size, other=0)
    moving = count > 0
    first, second = tl.load(i + at, mask=moving, other=0), tl.load(j + at, mask=moving, other=1)
    places = averages + _pairs_before(first, lo, n_latents) + (second - first - 1)
    old = tl.load(places, mask=moving, other=0.0)
    new = _moved(old, count, n_tokens, _capped(count, cap, scale))
    tl.store(places, new, mask=moving)


@triton.jit(do_not_specialize=["lo", "n_latents", "size"])
def _compare_pairs_kernel(
    averages, sums, i, j, counts, size, lo, n_latents, n_tokens, BLOCK: tl.constexpr
):
    """Write Σ c s of listed pairs, one sum a program."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(counts + at, mask=at < size, other=0)
    active = count > 0
    first, second = tl.load(i + at, mask=active, other=0), tl.load(j + at, mask=active, other=1)
    places = averages + _pairs_before(first, lo, n_latents) + (second - first - 1)
    average = tl.load(places, mask=active, other=0.0)
    parts = tl.where(active, _unstable_part(average, count, n_tokens), 0.0)
    tl.store(sums + tl.program_id(0), tl.sum(parts.to(tl.float64), 0))
