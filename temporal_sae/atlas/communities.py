"""Communities of latents that fire in the same documents, whatever they do from token to token.

Two latents are linked as far as their rates rise and fall together over the documents: r is the
correlation of the two rates, where each document counts by its length. A latent keeps its strongest
links, and modularity (the Louvain method) finds the groups.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from temporal_sae.atlas import loops
from temporal_sae.atlas.documents import DocumentCounts
from temporal_sae.atlas.nearest import Nearest
from temporal_sae.atlas.statistics import divided
from temporal_sae.kernels.threads import on_threads

N_LINKS = 10
LEAST_DEVIATIONS = 4.0  # of r, whose deviation is 1 / √documents if nothing links the two
LEAST_MEMBERS = 3
SEED = 0  # of the order in which latents are moved
NONE = -1


class Topics:
    """The links of all latents, from the rows of the table of pairs.

    Args:
        documents: in which each latent fires.
        counts: tokens in which each does.

    Attributes:
        links: the strongest of each latent, by r.
    """

    def __init__(self, documents: DocumentCounts, counts: np.ndarray) -> None:
        self._counts = counts.astype(np.float64)
        self._n_tokens, self._n_documents = documents.sizes.sum(), len(documents.sizes)
        squares = np.zeros(len(counts))
        lists = documents.starts, documents.documents, documents.counts
        on_threads(loops.sum_squares, *lists, documents.sizes, squares)
        # A rounding error below 0 is that of a latent whose rate is the same everywhere.
        variance = np.maximum(squares - self._counts**2 / self._n_tokens, 0.0)
        self._deviations = np.sqrt(variance)
        self.links = Nearest(len(counts), N_LINKS)

    def add(self, pairs: pa.Table) -> None:
        """Take in some rows of the table of pairs."""
        i, j = pairs["i"].to_numpy(), pairs["j"].to_numpy()
        self.links.add(i, j, self.correlation(i, j, pairs["expected_in_documents"].to_numpy()))

    def correlation(self, i: np.ndarray, j: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Return r of some pairs, NaN where a rate is the same in all documents.

        Args:
            i, j: the latents.
            expected: tokens in which both would fire if documents dealt their firings out: the
                sum over documents of the product of both counts over the length.
        """
        together = expected - self._counts[i] * self._counts[j] / self._n_tokens
        return divided(together, self._deviations[i] * self._deviations[j])

    def communities(self) -> np.ndarray:
        """Return the number of each latent's community, the largest first; -1: none. int32."""
        import networkx  # slow to import

        least = LEAST_DEVIATIONS / np.sqrt(max(1, self._n_documents))
        i, place = np.nonzero(self.links.scores >= least)
        found = np.full(len(self._counts), NONE, np.int32)
        graph = networkx.Graph()
        edges = i, self.links.latents[i, place], self.links.scores[i, place]
        graph.add_weighted_edges_from(zip(*(part.tolist() for part in edges), strict=True))
        groups = networkx.community.louvain_communities(graph, seed=SEED) if len(i) else []
        groups = [sorted(group) for group in groups if len(group) >= LEAST_MEMBERS]
        for number, group in enumerate(sorted(groups, key=lambda group: (-len(group), group))):
            found[group] = number
        return found
