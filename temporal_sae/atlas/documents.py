"""Counts of firings in documents, and what they say about two latents.

Two latents of one topic fire in the same documents, so they fire together more often than over the
whole text chance would have it, without any relation from token to token. The counts in documents
tell the two apart: expected are the tokens in which both would fire if each document kept its
firings and dealt them out to its tokens at random.
"""

from __future__ import annotations

import numpy as np

from temporal_sae.activations.rows import DOCUMENT
from temporal_sae.atlas import loops
from temporal_sae.atlas.firings import Firings
from temporal_sae.atlas.statistics import Counts, divided, lift
from temporal_sae.kernels.threads import on_threads

LONGEST = 2**14  # tokens: topics change in longer documents


def numbers(documents: np.ndarray) -> np.ndarray:
    """Return the number of each token's document, from 0, where those of one follow each other."""
    is_new = np.ones(len(documents), bool)
    is_new[1:] = documents[1:] != documents[:-1]
    first = np.maximum.accumulate(np.where(is_new, np.arange(len(documents)), 0))
    is_new |= (np.arange(len(documents)) - first) % LONGEST == 0
    found: np.ndarray = (np.cumsum(is_new) - 1).astype(np.int32)
    return found


class DocumentCounts:
    """The documents of each latent, with its firings in each.

    A document of more than 16384 tokens counts as several, and so does text whose documents are not
    known.

    Args:
        firings: in text order, so that the tokens of a document follow each other.

    Attributes:
        number: of each token's document, int32.
        sizes: tokens of each document, float64 [n_documents].
        starts: where the documents of each latent begin, and their end, int64 [d_sae + 1].
        documents: of one latent after the other, ascending, int32.
        counts: of its firings in them, int32.
    """

    def __init__(self, firings: Firings) -> None:
        self.number = number = numbers(np.asarray(firings.places[:, DOCUMENT]))
        self.sizes = np.bincount(number).astype(np.float64)
        last = np.full(firings.n_latents, -1, np.int32)
        n_documents = np.zeros(firings.n_latents, np.int64)
        loops.count_documents(firings.latents, firings.starts, number, last, n_documents)
        self.starts = np.concatenate([[0], n_documents.cumsum()])
        self.documents = np.empty(self.starts[-1], np.int32)
        self.counts = np.zeros(self.starts[-1], np.int32)
        lists = (self.starts, self.documents, self.counts)
        loops.list_documents(firings.latents, firings.starts, number, lists)

    @property
    def first_tokens(self) -> np.ndarray:
        """The first token of each document, and the end, int64 [n_documents + 1]."""
        return np.concatenate([[0], self.sizes.cumsum()]).astype(np.int64)

    def by_document(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the latents of one document after the other.

        Returns:
            Where those of each document begin, and their end, int64; the latents, ascending within
            a document, and their firings in it, int32.
        """
        sizes = np.bincount(self.documents, minlength=len(self.sizes))
        starts = np.concatenate([[0], sizes.cumsum()])
        latents, counts = np.empty_like(self.documents), np.empty_like(self.counts)
        lists = self.starts, self.documents, self.counts
        loops.by_document(*lists, starts, latents, counts)
        return starts, latents, counts

    @property
    def of_latents(self) -> np.ndarray:
        """In how many documents each latent fires, int64 [d_sae]."""
        return np.diff(self.starts)

    def columns(self, i: np.ndarray, j: np.ndarray, n_ij: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the documents say about pairs.

        Args:
            i, j: the latents of each pair.
            n_ij: tokens in which both fire.
        """
        lists = (self.starts, self.documents, self.counts)
        both, moments = np.empty(len(i), np.int32), np.empty((len(i), 2))
        on_threads(loops.compare_documents, *lists, self.sizes, i, j, both, moments)
        expected, variance = moments.T
        of_latents = self.of_latents
        counts = Counts.of(both, of_latents[i], of_latents[j], len(self.sizes))
        return {
            "documents_ij": both,
            "document_lift": lift(counts),
            "expected_in_documents": expected,
            "z_in_documents": divided(n_ij - expected, np.sqrt(variance)),
        }
