"""Latents that screening has not excluded, and bounds of their pre-activations."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from temporal_sae.kernels.screening.rounding import Rounded
from temporal_sae.kernels.threads import compiled, on_threads

FAST = {"reassoc", "nsz", "contract"}
DEVIATIONS = 6.0  # of the rounding error
EIGHT = 8  # marks of a byte each that are looked at together
BUCKETS = 128
CAUTION = 4  # standard deviations of a number in a sample
LEAST = np.float32(np.finfo(np.float32).tiny)  # what is not positive is not wanted
UNSETTLED = -1  # in place of a number of candidates: there were too many of them


class Tile(NamedTuple):
    """Products of rounded rows: of all tokens with some latents.

    Attributes:
        scores: int32 [B, T].
        tokens, latents: the rounded rows.
        bias: float32 [T], less the threshold of each latent where there are such.
        constant: Σ u u' of the two dithers.
        first: number of the first latent.
    """

    scores: np.ndarray
    tokens: Rounded
    latents: Rounded
    bias: np.ndarray
    constant: float
    first: int


class Candidates:
    """Lists of latents, ascending, of each token.

    Attributes:
        counts: candidates of each token, int64 [B]; `UNSETTLED` where there were too many.
        bars: a pre-activation that wanted latents reach, float32 [B].
        guesses: what the bars began with, [B]; the least of the wanted ones has to reach it.

    Args:
        n_tokens: B.
        room: candidates of a token between two calls of `raise_bars`, beside one tile.
        tile: latents of a tile, at most.
    """

    def __init__(self, n_tokens: int, room: int, tile: int) -> None:
        shape = n_tokens, room + tile
        self.counts = np.zeros(n_tokens, np.int64)
        self.bars = np.full(n_tokens, LEAST)
        self.guesses = np.zeros(n_tokens, np.float32)
        self._room = room
        self._last = np.zeros(n_tokens, np.int64)  # counts when bars were raised
        self._last_total = 0
        self._latents = np.empty(shape, np.int32)
        self._low, self._high = np.empty(shape, np.float32), np.empty(shape, np.float32)

    def guess_bars(self, sample: Tile, k: int, n_latents: int) -> int:
        """Begin with bars that probably k latents of each token reach, by a sample of latents.

        Returns:
            How many of the sample reach the bar of each token.
        """
        expected = k * sample.bias.size / n_latents
        rank = math.ceil(expected + CAUTION * (expected**0.5 + 1))
        if rank <= sample.bias.size:
            on_threads(_guess_loop, bounds_below(sample), rank, self.bars)
            self.guesses = np.where(self.bars > LEAST, self.bars, 0).astype(np.float32)
        return rank

    def guess_common_bar(self, sample: Tile, n: int, n_latents: int) -> int:
        """Begin with a bar that probably n latents of the batch reach.

        Returns:
            How many of the sample reach it.
        """
        low = bounds_below(sample).ravel()
        rank = math.ceil(2 * n * sample.bias.size / n_latents)
        if 0 < rank <= low.size and (bar := np.partition(low, -rank)[-rank]) > LEAST:
            self.bars[:] = self.guesses[:] = bar
        return rank

    def expected(self, sample: Tile) -> int:
        """Return how many of a sample would become candidates; there are none yet."""
        self.add(sample)
        n = int(self.counts.sum())
        self.counts[:] = 0
        return n

    def add(self, tile: Tile) -> None:
        """Take the latents of a tile that may reach their token's bar."""
        bounds = (self._latents, self._low, self._high)
        state = (self.bars, self.counts, *bounds, self._room)
        on_threads(_add_loop, tile.scores, *_numbers(tile), tile.first, *state)

    def raise_bars(self, k: int, now: bool = False) -> None:
        """Raise the bar of each token to what k of its candidates reach for certain.

        Args:
            k: latents that are wanted of each token.
            now: all of them; otherwise those with k more candidates than the last time.
        """
        due = np.full_like(self.counts, k) if now else np.maximum(self._last, k) + k
        bounds = (self._latents, self._low, self._high)
        due = np.minimum(due, self._room)
        on_threads(_raise_loop, k, due, self._last, self.bars, self.counts, *bounds)

    def raise_common_bar(self, n: int, now: bool = False) -> None:
        """Raise the bar of all tokens to what n candidates of the batch reach for certain."""
        settled = np.maximum(self.counts, 0)
        total = int(settled.sum())
        if total < n or not (now or total >= max(self._last_total, n) + n):
            return
        low = np.empty(total, np.float32)
        on_threads(_gather_loop, self._low, self.counts, settled.cumsum(), low)
        self.bars[:] = max(self.bars[0], np.partition(low, -n)[-n])
        on_threads(_drop_loop, self.bars, self.counts, self._latents, self._low, self._high)
        self._last_total = int(np.maximum(self.counts, 0).sum())

    def lists(self) -> np.ndarray:
        """Return the candidates, int64 [B, K] with -1 in empty slots; none of unsettled tokens."""
        lists = np.full((len(self.counts), max(1, self.counts.max(initial=0))), -1, np.int64)
        on_threads(_list_loop, self._latents, self.counts, lists)
        return lists


def bounds_below(tile: Tile) -> np.ndarray:
    """Return what the pre-activations of a tile are at least, float32 [B, T]."""
    low = np.empty(tile.scores.shape, np.float32)
    on_threads(_bounds_loop, tile.scores, *_numbers(tile), low)
    return low


def _numbers(tile: Tile) -> tuple[Any, ...]:
    """Return what the loops take of a tile, beside its scores.

    The bound on the error is the root of a sum that differs from latent to latent. A root is below
    any of its tangents, so that one root for each token is enough.
    """
    tokens, latents, width = tile.tokens, tile.latents, np.float32(DEVIATIONS**2 / 12)
    # Of the token's own rounding, and of the latents' times the token as it was rounded.
    squares = tokens.square + np.float32(tokens.q.shape[1] / 12) * tokens.scale**2
    own, others, steps = width * tokens.scale**2, width * squares, latents.scale**2
    about = np.sqrt(own * latents.square.mean() + others * steps.mean())
    slope = 0.5 / np.maximum(about, LEAST)
    of_tokens = (tokens.scale, tokens.offset - np.float32(tile.constant))
    with np.errstate(invalid="ignore"):  # of a token that is not finite nothing is known
        spread = (own * slope, others * slope, about / 2)
    return of_tokens, spread, (latents.scale, latents.offset, latents.square, steps, tile.bias)


@compiled(fastmath=FAST)
def _between(r, row, tokens, spread, latents, about, reach):
    """Write the pre-activations of a token as they seem, and how far they may be off."""
    scales, offsets, squares, steps, bias = latents
    scale, offset = tokens[0][r], tokens[1][r]
    own, others, rest = spread[0][r], spread[1][r], spread[2][r]
    for j in range(about.size):
        about[j] = scale * scales[j] * (np.float32(row[j]) - offset - offsets[j]) + bias[j]
        reach[j] = own * squares[j] + others * steps[j] + rest


@compiled(fastmath=FAST)
def _bounds_loop(part, parts, scores, tokens, spread, latents, low):
    reach = np.empty(low.shape[1], np.float32)
    for r in range(part, len(low), parts):
        _between(r, scores[r], tokens, spread, latents, low[r], reach)
        for j in range(reach.size):
            low[r, j] -= reach[j]


@compiled(fastmath=FAST)
def _add_loop(
    part, parts, scores, tokens, spread, latents, first, bars, counts, ids, low, high, room
):
    """Append what may reach the bar; a token with no room for a whole tile is given up."""
    n = scores.shape[1]
    about, reach = np.empty(n, np.float32), np.empty(n, np.float32)
    marks = np.zeros(-(-n // EIGHT) * EIGHT, np.uint8)
    eights = marks.view(np.uint64)  # of which nearly all are 0
    for r in range(part, counts.size, parts):
        if counts[r] > room:
            counts[r] = UNSETTLED
        if counts[r] < 0:
            continue
        _between(r, scores[r], tokens, spread, latents, about, reach)
        bar, found = bars[r], counts[r]
        for j in range(n):
            marks[j] = not about[j] + reach[j] < bar
        for e in range(eights.size):
            if eights[e] == 0:
                continue
            for j in range(e * EIGHT, min(n, (e + 1) * EIGHT)):
                if marks[j]:
                    ids[r, found] = first + j
                    low[r, found], high[r, found] = about[j] - reach[j], about[j] + reach[j]
                    found += 1
        counts[r] = found


@compiled(fastmath=FAST)
def _guess_loop(part, parts, low, rank, bars):
    numbers = np.empty(BUCKETS, np.int32)
    for r in range(part, len(low), parts):
        bars[r] = _raised(bars[r], low[r], rank, numbers)


@compiled(fastmath=FAST)
def _raise_loop(part, parts, k, due, last, bars, counts, ids, low, high):
    numbers = np.empty(BUCKETS, np.int32)
    for r in range(part, counts.size, parts):
        if counts[r] >= due[r]:
            bars[r] = _raised(bars[r], low[r, : counts[r]], k, numbers)
            counts[r] = _kept(bars[r], counts[r], ids[r], low[r], high[r])
            last[r] = counts[r]


@compiled(fastmath=FAST)
def _raised(bar, low, k, numbers):
    """Return the highest edge of buckets above the bar that k numbers reach; twice, ever finer."""
    top = bar
    for value in low:
        top = max(top, value)
    for _ in range(2):
        width = (top - bar) / BUCKETS
        if not 0 < width < np.inf:
            break
        numbers[:] = 0
        for value in low:
            place = (value - bar) / width
            if place >= 0:
                numbers[min(int(place), BUCKETS - 1)] += 1
        edge, reaching = BUCKETS, 0
        while edge > 0 and reaching < k:
            edge -= 1
            reaching += numbers[edge]
        if reaching < k:
            break
        # The edge as it is computed here may lie above numbers that were counted as reaching it.
        top = bar + (edge + 1) * width
        bar += max(edge - np.float32(1e-3), np.float32(0)) * width
    return bar


@compiled(fastmath=FAST)
def _drop_loop(part, parts, bars, counts, ids, low, high):
    for r in range(part, counts.size, parts):
        if counts[r] > 0:
            counts[r] = _kept(bars[r], counts[r], ids[r], low[r], high[r])


@compiled(fastmath=FAST)
def _kept(bar, n, ids, low, high):
    """Move those that reach the bar to the front, and return their number."""
    kept = 0
    for e in range(n):
        if not high[e] < bar:
            ids[kept], low[kept], high[kept] = ids[e], low[e], high[e]
            kept += 1
    return kept


@compiled
def _gather_loop(part, parts, values, counts, ends, out):
    for r in range(part, counts.size, parts):
        if counts[r] > 0:
            out[ends[r] - counts[r] : ends[r]] = values[r, : counts[r]]


@compiled
def _list_loop(part, parts, ids, counts, lists):
    for r in range(part, counts.size, parts):
        if counts[r] > 0:
            lists[r, : counts[r]] = ids[r, : counts[r]]
