"""In which documents each latent fires, as one bit for each latent and document."""

from __future__ import annotations

import numpy as np

from temporal_sae.activations.rows import DOCUMENT
from temporal_sae.atlas import loops
from temporal_sae.atlas.firings import Firings
from temporal_sae.atlas.statistics import Counts, lift
from temporal_sae.kernels.threads import on_threads

BITS = 64


class DocumentSets:
    """The documents of each latent.

    Args:
        firings: in text order, so that the tokens of a document follow each other.
    """

    def __init__(self, firings: Firings) -> None:
        documents = np.asarray(firings.places[:, DOCUMENT])
        new = np.ones(len(documents), bool)
        new[1:] = documents[1:] != documents[:-1]
        number = np.cumsum(new) - 1
        self.are_known = bool(len(documents)) and bool((documents >= 0).all())
        self.n_documents = int(number[-1]) + 1 if self.are_known else 0
        words = -(-self.n_documents // BITS)
        self.bits = np.zeros((firings.n_latents, words), np.uint64)
        if self.are_known:
            loops.mark(firings.latents, firings.starts, number, self.bits)

    def sizes(self) -> np.ndarray:
        """Return in how many documents each latent fires, int32 [d_sae]."""
        every = np.arange(len(self.bits), dtype=np.int32)
        return self._common(every, every)

    def columns(self, i: np.ndarray, j: np.ndarray) -> dict[str, np.ndarray]:
        """Return the documents in which both latents fire somewhere, and their lift.

        Where the documents are not known, the counts are 0 and the lift is NaN.
        """
        both, sizes = self._common(i, j), self.sizes()
        found = lift(Counts.of(both, sizes[i], sizes[j], self.n_documents))
        return {"documents_ij": both, "document_lift": found}

    def _common(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        counts = np.empty(len(i), np.int32)
        on_threads(loops.count_common, self.bits, i, j, counts)
        return counts
