"""The site of an atlas: static files that a browser shows without a server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from temporal_sae.assets import PAGE
from temporal_sae.atlas.firings import Firings
from temporal_sae.atlas.folder import PAIRS, Atlas
from temporal_sae.atlas.site import encode
from temporal_sae.atlas.site.contents import Contents, latent_contents
from temporal_sae.atlas.site.explanations import write_explanations
from temporal_sae.atlas.site.partners import Pairs
from temporal_sae.atlas.site.vocabulary import Vocabulary
from temporal_sae.files import (
    make_folder_atomically,
    remove_all,
    remove_temporaries,
    write_atomically,
)

INDEX, SITE, LATENTS = "index.html", "site", "latents"
ASSETS = Path(__file__).parent / "assets"
Show = Callable[[str, int, int], None]


class Build:
    """A digest of what is written, as a part of every address.

    So no browser takes files of two sites for one.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=6)

    def add(self, path: Path, data: bytes) -> None:
        """Write a file, into a folder that is no one's yet."""
        self._hash.update(data)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)

    def write_page(self, folder: Path) -> Path:
        """Write the page that loads all others; returns its path."""
        page = (ASSETS / INDEX).read_text(encoding="utf-8")
        write_atomically(folder / INDEX, page.replace("BUILD", self._hash.hexdigest()))
        return folder / INDEX


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
    build = Build()

    def fill(site: Path) -> None:
        for path in sorted([*PAGE.iterdir(), *ASSETS.iterdir()]):
            if path.name != INDEX:
                build.add(site / path.name, path.read_bytes())
        contents = Contents(atlas, firings)
        for done, (name, content) in enumerate(contents.files(), 1):
            build.add(site / f"{name}.js", encode.script(name, content))
            show("files of the site", done, contents.n_files)
        remove_all(folder, [SITE])

    make_folder_atomically(folder / SITE, fill)
    write_explanations(atlas, folder)
    return build.write_page(folder)


def rewrite_latents(atlas: Atlas, folder: Path) -> Path:
    """Write the latents of a site again, from tables that have got more columns.

    Args:
        atlas: the tables, of the same firings.
        folder: that holds the site.
    """
    remove_temporaries(folder / SITE, below=False)
    build = Build()

    def fill(own: Path) -> None:
        pairs = Pairs(atlas.folder / PAIRS, len(atlas.latents))
        contents = latent_contents(atlas, pairs, Vocabulary(atlas.tokens))
        for n, content in enumerate(contents):
            build.add(own / f"{n}.js", encode.script(f"{LATENTS}/{n}", content))
        remove_all(folder / SITE, [LATENTS])

    make_folder_atomically(folder / SITE / LATENTS, fill)
    return build.write_page(folder)
