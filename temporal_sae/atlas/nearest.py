"""The nearest latents of each latent: by decoder direction, and by firing together."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from temporal_sae.atlas import loops

N_NEAREST = 10
ROWS_AT_ONCE = 1024


class Nearest:
    """The latents with the largest score for each latent, the largest first.

    Args:
        n_latents: d_sae.
        n: how many are kept.

    Attributes:
        latents: int32 [d_sae, n], -1 where there are fewer.
        scores: float64 [d_sae, n], -inf there.
    """

    def __init__(self, n_latents: int, n: int = N_NEAREST) -> None:
        self.latents = np.full((n_latents, n), -1, np.int32)
        self.scores = np.full((n_latents, n), -np.inf)

    def add(self, i: np.ndarray, j: np.ndarray, score: np.ndarray) -> None:
        """Take in pairs, each for both of its latents; one whose score is NaN is left out."""
        loops.insert(i, j, score.astype(np.float64), self.latents, self.scores)
        loops.insert(j, i, score.astype(np.float64), self.latents, self.scores)


def nearest_by_cosine(directions: Tensor, n: int = N_NEAREST) -> tuple[np.ndarray, np.ndarray]:
    """Return the latents of the largest cosines with each, and the cosines, [d_sae, n].

    Args:
        directions: unit rows, [d_sae, d_in].
        n: how many; fewer where there are fewer latents.
    """
    n_latents = len(directions)
    n = min(n, n_latents - 1)
    latents, cosines = np.empty((n_latents, n), np.int32), np.empty((n_latents, n), np.float32)
    for lo in range(0, n_latents, ROWS_AT_ONCE):
        block = directions[lo : lo + ROWS_AT_ONCE] @ directions.T
        own = torch.arange(len(block))
        block[own, lo + own] = -torch.inf
        values, places = block.topk(n, dim=1)
        cosines[lo : lo + len(block)], latents[lo : lo + len(block)] = values, places
    return latents, cosines
