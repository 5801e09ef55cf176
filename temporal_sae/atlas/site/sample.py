"""A sample of whole windows, from which the page of any two latents is computed.

Every s-th window is held: its tokens, and of each latent the tokens in which it fires. So what two
latents have in common is found when somebody asks, and not for all pairs in advance.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from temporal_sae.activations.rows import DOCUMENT, TOKEN
from temporal_sae.atlas.counting import firing_counts, postings_of, ranges
from temporal_sae.atlas.firings import Firings
from temporal_sae.atlas.site import lists
from temporal_sae.atlas.site.encode import packed
from temporal_sae.atlas.site.vocabulary import Vocabulary

MOST_TOKENS = 2**18
TOKENS_IN_FILE = 2**13
LEVELS = 127  # of an activation, so that one byte of a varint holds it


def levels(values: np.ndarray, largest: np.ndarray | float) -> np.ndarray:
    """Return activations as whole numbers from 0 to `LEVELS`, rounded up, 0 only where they are."""
    share = values / np.maximum(largest, np.float32(1e-30))
    return np.clip(np.ceil(LEVELS * share), 0, LEVELS).astype(np.uint8)


class Sample:
    """Every s-th window of some firings; it can be counted like all of them.

    Args:
        firings: of the whole text.

    Attributes:
        most: tokens that it holds at most; of a longer window, its beginning.
        stride: s.
        windows: the numbers of the windows.
        window_size: tokens of each.
        latents, starts, n_latents, n_tokens, n_windows: as of `Firings`.
    """

    most = MOST_TOKENS

    def __init__(self, firings: Firings) -> None:
        most = self.most
        whole = firings.window_size if firings.n_windows else firings.n_tokens
        n_windows = max(firings.n_windows, 1)
        self.window_size = min(whole, most)
        self.stride = -(-n_windows // max(1, most // max(self.window_size, 1)))
        self.windows = np.arange(0, n_windows, self.stride)
        self.n_windows, self.n_latents = len(self.windows), firings.n_latents
        self.n_tokens = self.n_windows * self.window_size
        firsts = self.windows * whole
        self._spans = [slice(first, first + self.window_size) for first in firsts.tolist()]
        ends = [slice(*firings.starts[[s.start, s.stop]].tolist()) for s in self._spans]
        self.latents = np.concatenate([firings.latents[span] for span in ends])
        self.values = np.concatenate([firings.values[span] for span in ends])
        self.places = np.concatenate([firings.places[span] for span in self._spans])
        sizes = [np.diff(firings.starts[s.start : s.stop + 1]) for s in self._spans]
        self.starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)

    @cached_property
    def counts(self) -> np.ndarray:
        """Tokens of the sample in which each latent fires, int64 [d_sae]."""
        return firing_counts(self)

    @property
    def list_starts(self) -> np.ndarray:
        """Return where the firings of each latent begin in the files, and the end of all."""
        return np.concatenate([[0], self.counts.cumsum()])

    def firings(self, largest: np.ndarray) -> Iterator[dict[str, object]]:
        """Yield the files of the tokens in which each latent fires, and how strongly.

        Args:
            largest: the largest activation of each latent.
        """
        tokens = np.empty(len(self.latents), np.int32)
        strengths = np.empty(len(self.latents), np.uint8)
        starts = self.list_starts
        for lo, hi in ranges(self.counts):
            own, postings = slice(starts[lo], starts[hi]), postings_of(self, self.counts, lo, hi)
            tokens[own] = postings.tokens
            of_latents = np.repeat(largest[lo:hi], self.counts[lo:hi])
            strengths[own] = levels(self.values[postings.places], of_latents)
        columns: dict[str, np.ndarray] = {"tokens": tokens, "levels": strengths}
        return lists.files(starts, columns, ascending="tokens")

    def text(self, vocabulary: Vocabulary) -> Iterator[dict[str, object]]:
        """Yield the files of the text: tokens, and where documents and windows begin."""
        ids, documents = self.places[:, TOKEN], self.places[:, DOCUMENT]
        begins = np.ones(self.n_tokens, bool)
        begins[1:] = documents[1:] != documents[:-1]
        if self.stride > 1:
            begins[:: self.window_size] = True
        for first in range(0, self.n_tokens, TOKENS_IN_FILE):
            own = slice(first, first + TOKENS_IN_FILE)
            strings, tokens = vocabulary.coded(ids[own])
            at = np.flatnonzero(begins[own])
            yield {
                "strings": strings,
                "tokens": packed(tokens),
                "begins": packed(at),
                # That of the first token too, which may have begun in an earlier file.
                "documents": packed(documents[np.append(first, first + at)]),
            }

    @property
    def facts(self) -> dict[str, object]:
        """Return the facts of the sample that the page needs."""
        return {
            "stride": self.stride,
            "n_windows": self.n_windows,
            "window_size": self.window_size,
            "n_tokens": self.n_tokens,
            "tokens_in_file": TOKENS_IN_FILE,
            "levels": LEVELS,
            "firsts": packed(np.array(lists.cuts(self.list_starts))),
        }
