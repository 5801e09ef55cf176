"""The Triton kernels behind `cuda` that count pairs of latents and fold the counts into averages.

Every count is a product of rows of the mask int8 [F, width], one column a token: bytes multiplied
on the tensor cores and added up as int32. `width` is a multiple of `BLOCK_W`, so no load needs a
mask. Divisions round as IEEE says, and launches forbid fused multiply-adds, which round once where
the formula rounds twice: averages then agree to the bit with the other versions.
"""

from __future__ import annotations

import triton
import triton.language as tl

from temporal_sae.kernels import alpha

PAIR, UNION = tl.constexpr(alpha.PAIR), tl.constexpr(alpha.UNION)
TINY = tl.constexpr(2.0**-126)
TILE_ROWS_AT_ONCE = tl.constexpr(16)  # tiles that run together then share rows of the mask in L2


@triton.jit
def _count_tile(mask, width, i, j, n_latents, BLOCK_W: tl.constexpr):
    """n_ij of all pairs of some latents i and j; where there is no such latent, of others."""
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
def _corner(lo, tile_rows, tile_columns, TILE: tl.constexpr):
    """The first i and the first j of this program's tile; in column 0, j starts one after i."""
    row, column = tl.program_id(0) // tile_columns, tl.program_id(0) % tile_columns
    row, column = tl.swizzle2d(row, column, tile_rows, tile_columns, TILE_ROWS_AT_ONCE)
    return lo + row * TILE, lo + row * TILE + 1 + column * TILE


@triton.jit
def _pairs_here(i, j, hi, n_latents):
    """Which pairs of a tile exist."""
    return (i < hi)[:, None] & (j < n_latents)[None, :] & (i[:, None] < j[None, :])


@triton.jit
def _pairs_before(row, lo, n_latents):
    """Pairs of the rows from `lo` to `row`: where a row starts in the packed triangle."""
    rows = (row - lo).to(tl.int64)
    return rows * (n_latents - lo) - rows * (rows + 1) // 2


@triton.jit
def _places(i, j, first, n_latents):
    """Where a tile's pairs are, from the start of row `first` on; 32 bits, to save registers."""
    rows = i - first
    starts = rows * (n_latents - first) - rows * (rows + 1) // 2
    return starts[:, None] + (j[None, :] - i[:, None] - 1)


@triton.jit
def _moved(average, count, n_tokens, alpha):
    """c̄ + α (c - c̄)."""
    return average + alpha * (tl.div_rn(count.to(tl.float32), n_tokens) - average)


@triton.jit
def _capped(count, cap, scale):
    """α = min(cap, n / scale)."""
    return tl.minimum(tl.div_rn(count.to(tl.float32), scale), cap)


@triton.jit
def _unstable_part(average, count, n_tokens):
    """c s = c |c - c̄| / max(c, c̄)."""
    rate = tl.div_rn(count.to(tl.float32), n_tokens)
    larger = tl.maximum(tl.maximum(rate, average), TINY)
    return rate * tl.div_rn(tl.abs(rate - average), larger)


NOT_SPECIAL = ["lo", "hi", "n_latents", "tile_rows", "tile_columns"]  # or each value is compiled


@triton.jit(do_not_specialize=NOT_SPECIAL)
def fold_tiles(
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
    first, second = _corner(lo, tile_rows, tile_columns, TILE)
    if second >= n_latents:
        return
    i, j = first + tl.arange(0, TILE), second + tl.arange(0, TILE)
    counts = _count_tile(mask, width, i, j, n_latents, BLOCK_W)
    moving = _pairs_here(i, j, hi, n_latents)
    if SOURCE == PAIR:  # nothing else has an α above 0, so nothing else is read or written
        moving = moving & (counts > 0)
        alphas = _capped(counts, cap, scale)
    elif SOURCE == UNION:
        own = tl.load(alone + i, mask=i < n_latents, other=0)[:, None]
        other = tl.load(alone + j, mask=j < n_latents, other=0)[None, :]
        alphas = _capped(own + other - counts, cap, scale)
    else:
        alphas = tl.full((TILE, TILE), 0.0, tl.float32) + cap
    places = averages + _pairs_before(first, lo, n_latents) + _places(i, j, first, n_latents)
    old = tl.load(places, mask=moving, other=0.0)
    tl.store(places, _moved(old, counts, n_tokens, alphas), mask=moving)


@triton.jit(do_not_specialize=NOT_SPECIAL)
def compare_tiles(
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
    """Σ c s of a tile, one float64 each, written where the tile has pairs."""
    first, second = _corner(lo, tile_rows, tile_columns, TILE)
    if second >= n_latents:
        return
    i, j = first + tl.arange(0, TILE), second + tl.arange(0, TILE)
    counts = _count_tile(mask, width, i, j, n_latents, BLOCK_W)
    active = _pairs_here(i, j, hi, n_latents) & (counts > 0)
    places = averages + _pairs_before(first, lo, n_latents) + _places(i, j, first, n_latents)
    average = tl.load(places, mask=active, other=0.0)
    parts = tl.where(active, _unstable_part(average, counts, n_tokens), 0.0)
    tl.store(sums + tl.program_id(0), tl.sum(tl.sum(parts, 0).to(tl.float64), 0))


@triton.jit(do_not_specialize=["lo", "n_latents", "size"])
def fold_pairs(
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
def compare_pairs(averages, sums, i, j, counts, size, lo, n_latents, n_tokens, BLOCK: tl.constexpr):
    """Σ c s of listed pairs, one sum a program."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(counts + at, mask=at < size, other=0)
    active = count > 0
    first, second = tl.load(i + at, mask=active, other=0), tl.load(j + at, mask=active, other=1)
    places = averages + _pairs_before(first, lo, n_latents) + (second - first - 1)
    average = tl.load(places, mask=active, other=0.0)
    parts = tl.where(active, _unstable_part(average, count, n_tokens), 0.0)
    tl.store(sums + tl.program_id(0), tl.sum(parts.to(tl.float64), 0))


@triton.jit(do_not_specialize=NOT_SPECIAL)
def count_tiles(
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
    """n_ij of a tile, j > i, into int32 [hi - lo, F]."""
    first, second = _corner(lo, tile_rows, tile_columns, TILE)
    if second >= n_latents:
        return
    i, j = first + tl.arange(0, TILE), second + tl.arange(0, TILE)
    counts = _count_tile(mask, width, i, j, n_latents, BLOCK_W)
    places = out + (i - lo).to(tl.int64)[:, None] * n_latents + j[None, :]
    tl.store(places, counts, mask=_pairs_here(i, j, hi, n_latents))


@triton.jit(do_not_specialize=["n_latents", "n_slots", "tiles"])
def count_tokens(
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
    """n_ij of a tile of the pairs of one listed token, into int32 [tokens, K, K]."""
    m = tl.program_id(0) // (tiles * tiles)
    p = tl.program_id(0) // tiles % tiles * TILE + tl.arange(0, TILE)
    q = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    row = rows + tl.load(tokens + m).to(tl.int64) * n_slots
    i = tl.load(row + p, mask=p < n_slots, other=-1)
    j = tl.load(row + q, mask=q < n_slots, other=-1)
    counts = _count_tile(mask, width, i, j, n_latents, BLOCK_W)
    filled = (i >= 0)[:, None] & (j >= 0)[None, :] & (p[:, None] != q[None, :])
    places = out + (m.to(tl.int64) * n_slots + p)[:, None] * n_slots + q[None, :]
    inside = (p < n_slots)[:, None] & (q < n_slots)[None, :]
    tl.store(places, tl.where(filled, counts, 0), mask=inside)


@triton.jit(do_not_specialize=["size"])
def count_listed(out, mask, width, i, j, size, BLOCK: tl.constexpr, BLOCK_W: tl.constexpr):
    """n_ij of listed pairs."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    w = tl.arange(0, BLOCK_W)
    first = tl.load(i + at, mask=at < size, other=0).to(tl.int64)[:, None] * width + w[None, :]
    second = tl.load(j + at, mask=at < size, other=0).to(tl.int64)[:, None] * width + w[None, :]
    both = tl.full((BLOCK, BLOCK_W), 0, tl.int32)
    for start in range(0, width, BLOCK_W):
        both += tl.load(mask + first + start) & tl.load(mask + second + start)
    tl.store(out + at, tl.sum(both, 1), mask=at < size)
