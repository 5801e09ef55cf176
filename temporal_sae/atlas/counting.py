"""Exact counts of all pairs over a whole text, in memory that does not grow with the pairs.

The firings stay on disk. A range of latents at a time gets the list of its firings (`Postings`);
the counts of a latent with all later ones are then gathered, in one row of counters, from what
follows it in each of its tokens. No matrix of counts exists, and no pair is ever sorted or merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch

from temporal_sae.atlas import loops
from temporal_sae.kernels.threads import in_parts, on_threads

POSTING_BYTES = 12
BYTES_OF_POSTINGS = 2**28
BYTES_OF_COUNTS = 2**26


class Sparse(Protocol):
    """Firings that can be counted: of a text, or dealt out by chance."""

    @property
    def latents(self) -> np.ndarray: ...
    @property
    def starts(self) -> np.ndarray: ...
    @property
    def n_latents(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def n_windows(self) -> int: ...
    @property
    def window_size(self) -> int: ...


class Postings(NamedTuple):
    """The firings of the latents lo, lo + 1, …

    Attributes:
        lo: the first latent.
        starts: where those of each latent begin, and their end, int64 [latents + 1].
        tokens: in which they are, ascending, int32.
        places: of the firings in `Firings.latents` and `values`, int64.
    """

    lo: int
    starts: np.ndarray
    tokens: np.ndarray
    places: np.ndarray

    @property
    def hi(self) -> int:
        return self.lo + len(self.starts) - 1

    def of(self, latent: int) -> slice:
        """Return where the firings of one latent are."""
        return slice(*map(int, self.starts[latent - self.lo :][:2]))


class PairCounts(NamedTuple):
    """Pairs i < j, by i and then j.

    Attributes:
        i, j: the latents, int32.
        n: tokens in which both fire, int64.
        squares: Σ over windows of the square of their count in it, int64.
    """

    i: np.ndarray
    j: np.ndarray
    n: np.ndarray
    squares: np.ndarray


def firing_counts(firings: Sparse) -> np.ndarray:
    """Return in how many tokens each latent fires, int64 [d_sae]."""
    parts = torch.get_num_threads()
    counts = np.zeros((parts, firings.n_latents), np.int64)
    on_threads(loops.count_firings, firings.latents, counts)
    return counts.sum(0)


def ranges(
    counts: np.ndarray, n_bytes: int = BYTES_OF_POSTINGS, lo: int = 0
) -> Iterator[tuple[int, int]]:
    """Yield ranges of latents whose postings fit into so many bytes, each at least one latent."""
    ends = np.concatenate([[0], counts.cumsum()]) * POSTING_BYTES
    while lo < len(counts):
        hi = int(np.searchsorted(ends, ends[lo] + n_bytes, side="right")) - 1
        hi = min(max(hi, lo + 1), len(counts))
        yield lo, hi
        lo = hi


def postings_of(firings: Sparse, counts: np.ndarray, lo: int, hi: int) -> Postings:
    """Return the firings of the latents lo ≤ i < hi, in one pass over all firings.

    Args:
        firings: of all latents.
        counts: of each latent, see `firing_counts`.
        lo: the first latent.
        hi: the latent after the last.
    """
    starts = np.zeros(hi - lo + 1, np.int64)
    np.cumsum(counts[lo:hi], out=starts[1:])
    tokens, places = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int64)
    arguments = (firings.latents, firings.starts, lo, starts, tokens, places)
    parts = torch.get_num_threads()
    # Of the latents, not of the firings: each part then writes to places of its own, in order.
    cuts = np.searchsorted(starts, np.linspace(0, starts[-1], parts + 1)).astype(np.int64)
    cuts[0], cuts[-1] = 0, hi - lo
    in_parts(lambda part: loops.list_firings(*arguments, cuts[part], cuts[part + 1]), parts)
    return Postings(lo, starts, tokens, places)


def pair_counts(
    firings: Sparse,
    postings: Postings,
    in_windows: bool = True,
    wanted: np.ndarray | None = None,
) -> Iterator[PairCounts]:
    """Yield the pairs (i, j), j > i, of the latents i of some postings, some rows at a time.

    Args:
        firings: of all latents.
        postings: of some.
        in_windows: add up the squares; they are 0 otherwise.
        wanted: i · d_sae + j, ascending, of pairs that are yielded whatever their counts.
    """
    step = max(1, BYTES_OF_COUNTS // (firings.n_latents * 2 * 8))
    counts = np.zeros((step, firings.n_latents), np.int64)
    squares = np.zeros_like(counts)
    lists = postings.starts, postings.tokens, postings.places
    for lo in range(postings.lo, postings.hi, step):
        n = min(step, postings.hi - lo)
        counts[:n], squares[:n] = 0, 0
        of_rows = firings.latents, firings.starts, lists, lo - postings.lo
        if in_windows:
            size = firings.window_size
            on_threads(loops.count_pairs_in_windows, *of_rows, size, counts[:n], squares[:n])
        else:
            on_threads(loops.count_pairs, *of_rows, counts[:n])
        is_found = counts[:n] != 0
        if wanted is not None:
            first, last = np.searchsorted(wanted, np.array([lo, lo + n]) * firings.n_latents)
            is_found.flat[wanted[first:last] - lo * firings.n_latents] = True
        i, j = np.nonzero(is_found)
        numbers = (i + lo).astype(np.int32), j.astype(np.int32)
        yield PairCounts(*numbers, counts[i, j], squares[i, j])
