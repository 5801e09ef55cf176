"""Firings by chance: each document deals those of every latent out to its tokens at random.

What latents do in documents, their rates and topics, stays; what they do from token to token goes.
A relation that is found in these firings is a false discovery.
"""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np

from temporal_sae.atlas import loops
from temporal_sae.atlas.documents import DocumentCounts
from temporal_sae.atlas.firings import Firings
from temporal_sae.files import reserve
from temporal_sae.kernels.threads import on_threads


class Dealt(NamedTuple):
    """Firings as `Firings` has them, without activations; see there."""

    latents: np.ndarray
    starts: np.ndarray
    n_latents: int
    n_tokens: int
    n_windows: int
    window_size: int


def dealt_out(firings: Firings, documents: DocumentCounts, seed: int = 0) -> Dealt:
    """Return the firings after they were dealt out, in a file without a name beside the others.

    They may be too many for the memory; the file goes with the last array that shows it.

    Args:
        firings: of all latents.
        documents: of the firings.
        seed: of the draws.
    """
    kind, n = firings.latents.dtype, max(1, firings.n_firings)
    with TemporaryFile(dir=firings.folder) as file:
        reserve(file.fileno(), n * kind.itemsize)
        dealt = np.memmap(file, kind, "r+", shape=(n,))[: firings.n_firings]
    sizes = np.zeros(firings.n_tokens, np.int32)
    places = firings.starts, documents.first_tokens, documents.by_document()
    on_threads(loops.deal_out, *places, seed, dealt, sizes)
    starts = np.concatenate([[0], sizes.cumsum(dtype=np.int64)])
    facts = firings.n_latents, firings.n_tokens, firings.n_windows, firings.window_size
    return Dealt(dealt, starts, *facts)
