"""Pairs that look like absorber and absorbed.

An absorber is a latent that fires where a more general one should, which then stays silent: so its
direction contains that of the other. The two overlap in direction, but their firings are not those
of a parent and its child. The more frequent of the two, as the more general, is the absorbed one;
of those that are more frequent than a latent only the nearest in direction is looked at, since the
absorbers of one latent overlap with each other, too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from temporal_sae.atlas.relations import LEAST_COVERAGE

LEAST_COSINE = 0.4
LEAST_Z = 4.0  # in size; of 65536 pairs, chance gives two or three
MOST_APART = 0.75  # of the tokens that chance would give, where the two keep apart
LEAST_COVERED = 0.1  # of the absorber's firings, where they do not
LEAST_TOGETHER = 10  # tokens, there


class Candidates(NamedTuple):
    """Pairs i < j whose directions overlap, by i and then j.

    Attributes:
        n_latents: d_sae.
        keys: i · d_sae + j, int64, ascending.
        i_is_rarer: i would be the absorber.
    """

    n_latents: int
    keys: np.ndarray
    i_is_rarer: np.ndarray

    @classmethod
    def none(cls, n_latents: int) -> Candidates:
        """Return no pairs."""
        return cls(n_latents, np.empty(0, np.int64), np.empty(0, bool))

    @classmethod
    def of(cls, nearest: np.ndarray, cosines: np.ndarray, counts: np.ndarray) -> Candidates:
        """Return each latent with the nearest that fires more often, where their cosine is high.

        Args:
            nearest: latents of the largest cosines with each, the largest first, [d_sae, n].
            cosines: these.
            counts: tokens in which each latent fires, [d_sae].
        """
        n_latents = len(counts)
        possible = (counts[nearest] > counts[:, None]) & (counts[:, None] > 0)
        possible &= cosines >= LEAST_COSINE
        rarer = np.flatnonzero(possible.any(1))
        if not len(rarer):
            return cls.none(n_latents)
        other = nearest[rarer, possible[rarer].argmax(1)].astype(np.int64)
        keys = np.minimum(rarer, other) * n_latents + np.maximum(rarer, other)
        order = keys.argsort()
        return cls(n_latents, keys[order], (rarer < other)[order])

    def among(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of candidates among some pairs, by i and then j, and which they are."""
        if not len(i) or not len(self.keys):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        keys = i.astype(np.int64) * self.n_latents + j
        first, last = np.searchsorted(self.keys, [keys[0], keys[-1] + 1])
        places = np.searchsorted(keys, self.keys[first:last])
        is_there = keys[places] == self.keys[first:last]
        return places[is_there], np.flatnonzero(is_there) + first


def looks_absorbed(
    n_ij: np.ndarray, expected: np.ndarray, z: np.ndarray, covered: np.ndarray
) -> np.ndarray:
    """Return whether one of a pair of candidates seems to fall silent where the other fires.

    Either the two keep apart where they share documents, or the more frequent one fires in some of
    the rarer one's tokens, more than by chance, and in too few for a parent.

    Args:
        n_ij: tokens in which both fire.
        expected: by chance, in the documents.
        z: of the one against the other.
        covered: how far the more frequent one covers the rarer.
    """
    apart = (z <= -LEAST_Z) & (n_ij <= MOST_APART * expected)
    in_part = (z >= LEAST_Z) & (covered >= LEAST_COVERED) & (covered < LEAST_COVERAGE)
    found: np.ndarray = apart | (in_part & (n_ij >= LEAST_TOGETHER))
    return found
