"""Contents of the files of a site, by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from temporal_sae.atlas.firings import Firings
from temporal_sae.atlas.folder import OVERLAPS, PAIRS, Atlas
from temporal_sae.atlas.site import encode, lists
from temporal_sae.atlas.site.latents import LATENTS_IN_FILE, latent_files
from temporal_sae.atlas.site.overview import overview
from temporal_sae.atlas.site.partners import Pairs
from temporal_sae.atlas.site.sample import TOKENS_IN_FILE, Sample
from temporal_sae.atlas.site.vocabulary import Vocabulary
from temporal_sae.tracker import CoActivationTracker


class Contents:
    """Contents of the files of the site.

    Args:
        atlas: its tables.
        firings: from which they were made.
    """

    def __init__(self, atlas: Atlas, firings: Firings) -> None:
        self.atlas = atlas
        self.vocabulary = Vocabulary(atlas.tokens)
        self.pairs = Pairs(atlas.folder / PAIRS, firings.n_latents)
        self.sample = Sample(firings)
        n_lists = len(lists.cuts(self.sample.list_starts))
        n_counts = len(lists.cuts(self.pairs.count_starts)) if self.pairs.has_counts else 0
        n_text = -(-self.sample.n_tokens // TOKENS_IN_FILE)
        n_latent_files = -(-firings.n_latents // LATENTS_IN_FILE)
        self.n_files = 2 + n_latent_files + n_text + n_lists + n_counts

    def files(self) -> Iterator[tuple[str, object]]:
        """Yield name and content of each file."""
        atlas, latents = self.atlas, self.atlas.latents
        yield "overview", overview(latents, self.vocabulary, self.facts())
        yield "pairs", {name: pair_list(*rows) for name, rows in self.pairs.strongest().items()}
        largest = encode.numbers(latents["max_activation"].combine_chunks())
        parts = {
            "latents": latent_contents(atlas, self.pairs, self.vocabulary),
            "text": self.sample.text(self.vocabulary),
            "firings": self.sample.firings(np.nan_to_num(largest)),
            "counts": self.pairs.counts(),
        }
        for folder, contents in parts.items():
            for n, content in enumerate(contents):
                yield f"{folder}/{n}", content

    def facts(self) -> dict[str, Any]:
        """Return what the page has to know of all of it."""
        counts = lists.cuts(self.pairs.count_starts) if self.pairs.has_counts else None
        return {
            **self.atlas.facts,
            "n_latents": self.sample.n_latents,
            "n_pairs": self.pairs.n,
            "latents_in_file": LATENTS_IN_FILE,
            "sample": self.sample.facts,
            "counts": None if counts is None else encode.packed(np.array(counts)),
            "alpha": step_of_average(),
        }


def latent_contents(
    atlas: Atlas, pairs: Pairs, vocabulary: Vocabulary
) -> Iterator[dict[str, object]]:
    """Yield the content of one file of latents after the other."""
    overlaps = atlas.overlaps if (atlas.folder / OVERLAPS).exists() else None
    return latent_files(atlas.latents, atlas.examples, pairs.listed(), overlaps, vocabulary)


def step_of_average() -> dict[str, float]:
    """Return what the tracker's running average moves by, unless a run says otherwise."""
    options = inspect.signature(CoActivationTracker).parameters
    return {name: options[f"alpha_{name}"].default for name in ("cap", "scale")}


def pair_list(i: np.ndarray, j: np.ndarray, rows: pa.Table) -> dict[str, encode.Encoded]:
    """Return pairs with their columns."""
    return encode.table({"i": i, "j": j, **{name: rows[name] for name in rows.column_names}})
