"""Numbers of every latent from its firings: activations, positions, commonest tokens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from temporal_sae.activations.rows import POSITION, TOKEN
from temporal_sae.atlas import page_loops
from temporal_sae.atlas.counting import Postings
from temporal_sae.atlas.firings import Firings
from temporal_sae.kernels.threads import on_threads

N_TOP_TOKENS = 10
N_BINS = 40


class Tokens(NamedTuple):
    """The tokens of a text, in columns.

    Attributes:
        ids: int32 [tokens], -1 where they are unknown.
        buckets: int8 of their positions: 0 is position 0, b the positions 2^(b-1) to 2^b - 1; -1
            where they are unknown.
        n_ids: one more than the largest id.
        n_buckets: of the buckets.
    """

    ids: np.ndarray
    buckets: np.ndarray
    n_ids: int
    n_buckets: int

    @classmethod
    def of(cls, firings: Firings) -> Tokens:
        """Return those of the text of some firings."""
        ids = np.ascontiguousarray(firings.places[:, TOKEN])
        positions = firings.places[:, POSITION]
        # The exponent of frexp is the number of binary digits: exact below 2^53.
        buckets = np.where(positions < 0, -1, np.frexp(positions.astype(np.float64))[1])
        return cls(
            ids,
            buckets.astype(np.int8),
            int(ids.max(initial=-1)) + 1,
            int(buckets.max(initial=-1)) + 1,
        )

    @property
    def position_edges(self) -> list[int]:
        """The first position of each bucket."""
        return [0, *(2**b for b in range(self.n_buckets - 1))][: self.n_buckets]

    @property
    def in_buckets(self) -> list[int]:
        """Return the number of tokens of the text in each bucket."""
        known = self.buckets[self.buckets >= 0]
        found: list[int] = np.bincount(known, minlength=self.n_buckets).tolist()
        return found


class Summaries(NamedTuple):
    """Numbers of latents, arrays with a row for each.

    Attributes:
        maximum: the largest activation, float32.
        sum: of the activations, float64.
        squares: Σ over windows of the square of the count in it, int64.
        histogram: firings in 40 equal intervals of (0, maximum], int64 [latents, 40].
        positions: firings in each bucket of positions, int64 [latents, n_buckets].
        top_ids: tokens with the largest sums of activation, int32 [latents, 10], -1 where there are
            fewer.
        top_sums: these sums.
    """

    maximum: np.ndarray
    sum: np.ndarray
    squares: np.ndarray
    histogram: np.ndarray
    positions: np.ndarray
    top_ids: np.ndarray
    top_sums: np.ndarray

    @classmethod
    def of(cls, firings: Firings, postings: Postings, tokens: Tokens) -> Summaries:
        """Return those of the latents of some postings."""
        n = len(postings.starts) - 1
        found = cls(
            np.zeros(n, np.float32),
            np.zeros(n),
            np.zeros(n, np.int64),
            np.zeros((n, N_BINS), np.int64),
            np.zeros((n, max(1, tokens.n_buckets)), np.int64),
            np.full((n, N_TOP_TOKENS), -1, np.int32),
            np.zeros((n, N_TOP_TOKENS)),
        )
        on_threads(
            page_loops.summarise,
            (postings.starts, postings.tokens, postings.places),
            firings.values,
            tokens.ids,
            tokens.buckets,
            firings.window_size,
            tokens.n_ids,
            tuple(found),
        )
        return found
