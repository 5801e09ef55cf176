"""The site of an atlas: static files that a browser shows without a server."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from temporal_sae.assets import PAGE
from temporal_sae.atlas.firings import Firings
from temporal_sae.atlas.folder import OVERLAPS, PAIRS, Atlas
from temporal_sae.atlas.site import encode, lists
from temporal_sae.atlas.site.explanations import write_explanations
from temporal_sae.atlas.site.latents import LATENTS_IN_FILE, latent_files
from temporal_sae.atlas.site.overview import overview
from temporal_sae.atlas.site.partners import Pairs
from temporal_sae.atlas.site.sample import TOKENS_IN_FILE, Sample
from temporal_sae.atlas.site.vocabulary import Vocabulary
from temporal_sae.files import (
    make_folder_atomically,
    remove_all,
    remove_temporaries,
    write_atomically,
)
from temporal_sae.tracker import CoActivationTracker

INDEX, SITE = "index.html", "site"
ASSETS = Path(__file__).parent / "assets"
Show = Callable[[str, int, int], None]


def write_site(
    atlas: Atlas,
    firings: Firings,
    folder: Path,
    show: Show = lambda what, done, total: None,
) -> Path:
    """Write `index.html` and the folder `site` that it loads; returns the path of the page.

    A site that is there stays as it is until the new one is complete.

    Args:
        atlas: its tables.
        firings: from which they were made.
        folder: receives the site.
        show: is told how many files of how many are written.
    """
    remove_temporaries(folder, below=False)
    # Part of every address, so that no browser takes files of two sites for one.
    build = hashlib.blake2b(digest_size=6)

    def fill(site: Path) -> None:
        for path in sorted([*PAGE.iterdir(), *ASSETS.iterdir()]):
            build.update(path.read_bytes())
            if path.name != INDEX:
                (site / path.name).write_bytes(path.read_bytes())
        contents = Contents(atlas, firings)
        for done, (name, content) in enumerate(contents.files()):
            data = encode.script(name, content)
            build.update(data)
            path = site / f"{name}.js"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            show("files of the site", done + 1, contents.n_files)
        remove_all(folder, [SITE])

    make_folder_atomically(folder / SITE, fill)
    write_explanations(atlas, folder)
    page = (ASSETS / INDEX).read_text(encoding="utf-8").replace("BUILD", build.hexdigest())
    write_atomically(folder / INDEX, page)
    return folder / INDEX


class Contents:
    """What the files of the site hold.

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
        overlaps = atlas.overlaps if (atlas.folder / OVERLAPS).exists() else None
        known = latents, atlas.examples, self.pairs.listed(), overlaps
        largest = encode.numbers(latents["max_activation"].combine_chunks())
        parts = {
            "latents": latent_files(*known, self.vocabulary),
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


def step_of_average() -> dict[str, float]:
    """Return what the tracker's running average moves by, unless a run says otherwise."""
    options = inspect.signature(CoActivationTracker).parameters
    return {name: options[f"alpha_{name}"].default for name in ("cap", "scale")}


def pair_list(i: np.ndarray, j: np.ndarray, rows: pa.Table) -> dict[str, encode.Encoded]:
    """Return pairs with their columns."""
    return encode.table({"i": i, "j": j, **{name: rows[name] for name in rows.column_names}})
