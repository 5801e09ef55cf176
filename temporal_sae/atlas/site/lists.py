"""Ascending lists of numbers, one of each latent, in files loaded when one is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from temporal_sae.atlas.site.encode import packed, varints

ENTRIES_IN_FILE = 2**15


def cuts(starts: np.ndarray) -> list[int]:
    """Return the first latent of each file; a latent with very many entries has its own.

    Args:
        starts: where the entries of each latent begin, and the end of all, int64 [latents + 1].
    """
    found, lo, n_latents = [0], 0, len(starts) - 1
    while True:
        hi = int(np.searchsorted(starts, starts[lo] + ENTRIES_IN_FILE, side="right")) - 1
        lo = max(hi, lo + 1)
        if lo >= n_latents:
            return found
        found.append(lo)


def gaps(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return how far each number is from the one before it in its list, of the first from 0."""
    found = values.astype(np.int64)
    found[1:] -= values[:-1]
    firsts = starts[:-1][np.diff(starts) > 0] - starts[0]
    found[firsts] = values[firsts]
    return found


def files(
    starts: np.ndarray, columns: Mapping[str, np.ndarray], ascending: str
) -> Iterator[dict[str, object]]:
    """Yield the content of one file after the other.

    Args:
        starts: see `cuts`.
        columns: of all entries, whole numbers from 0.
        ascending: the one of them that is, within a latent; its gaps are written.
    """
    firsts = cuts(starts)
    for lo, hi in zip(firsts, [*firsts[1:], len(starts) - 1], strict=True):
        own = slice(starts[lo], starts[hi])
        content: dict[str, object] = {"first": lo}
        for name, column in columns.items():
            values = gaps(column[own], starts[lo : hi + 1]) if name == ascending else column[own]
            data, lengths = varints(values)
            ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            bounds = ends[starts[lo : hi + 1] - starts[lo]]
            content[name] = {"ends": packed(bounds[1:]), "bytes": packed(data)}
        yield content
