"""From an SAE and a source of activations to the tables of its atlas."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from temporal_sae.activations import ActivationSource
from temporal_sae.atlas import latents, pairs
from temporal_sae.atlas.chance import dealt_out
from temporal_sae.atlas.counting import firing_counts
from temporal_sae.atlas.documents import DocumentCounts
from temporal_sae.atlas.firings import Firings, FiringsWriter
from temporal_sae.atlas.gather import gather
from temporal_sae.atlas.nearest import Nearest
from temporal_sae.atlas.pairs import Choice, Directions, pair_table, relations_in, write_table
from temporal_sae.atlas.relations import Relatives, discoveries
from temporal_sae.sae import SparseAutoencoder

log = logging.getLogger(__name__)

FIRINGS, PAIRS, LATENTS = "firings", "pairs.parquet", "latents.parquet"
DEALT = "dealt.bin"
Show = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What an atlas is made of.

    Attributes:
        n_tokens: of the text, at least.
        window_size: tokens of a window, for the Fano factor and the overdispersion.
        choice: which pairs the table holds.
        seed: fixes the order of the documents.
        keep_firings: leave the firings on disk, for a longer pass.
    """

    n_tokens: int = 1_000_000
    window_size: int = 1000
    choice: Choice = field(default_factory=Choice)
    seed: int = 0
    keep_firings: bool = False


def build_atlas(
    folder: Path,
    sae: SparseAutoencoder,
    source: ActivationSource,
    identity: dict[str, Any],
    options: Options,
    show: Show = lambda what, done, total: None,
) -> None:
    """Write `pairs.parquet` and `latents.parquet`.

    Args:
        folder: receives them; the firings are kept in it meanwhile.
        sae: takes rows as the source gives them, on the device of the source.
        source: it is open.
        identity: of SAE and text; firings of another are not continued.
        options: see there.
        show: is told what is being done, and how much of how much is.
    """
    own = folder / FIRINGS
    writer = FiringsWriter(own, sae.d_sae, identity | {"seed": options.seed})
    gather(
        sae, source, writer, options.n_tokens, options.seed, told(show, "tokens", options.n_tokens)
    )
    firings = Firings(own, sae.d_sae, options.window_size)
    counts, directions = firing_counts(firings), Directions.of(sae)
    documents, by_phi = DocumentCounts(firings), Nearest(sae.d_sae)
    relatives = Relatives(sae.d_sae)
    facts = {
        "n_tokens": firings.n_tokens,
        "n_windows": firings.n_windows,
        "window_size": options.window_size,
        "n_documents": len(documents.sizes),
        **options.choice._asdict(),
    }

    dealt = dealt_out(firings, documents, own / DEALT, options.seed)
    progress = told(show, "latents by chance", sae.d_sae)
    by_chance = relations_in(dealt, counts, documents, options.choice, progress)

    def parts() -> Iterator[pa.Table]:
        progress = told(show, "latents", sae.d_sae)
        for part in pair_table(firings, counts, documents, directions, options.choice, progress):
            by_phi.add(*(part[name].to_numpy() for name in ("i", "j", "phi")))
            relatives.add(part)
            yield part

    n_pairs = write_table(folder / PAIRS, parts(), pairs.SCHEMA, facts)
    table = latents.latent_table(
        firings, counts, documents.of_latents, directions, by_phi, relatives, text_of(source)
    )
    write_table(folder / LATENTS, [table], latents.SCHEMA, facts)
    log.info(
        "%s pairs that fire together in at least %d of %s tokens, and %s latents: %s",
        f"{n_pairs:,}",
        options.choice.min_count,
        f"{firings.n_tokens:,}",
        f"{sae.d_sae:,}",
        folder,
    )
    for line in discoveries(relatives.found, by_chance):
        log.info("%s", line)
    if not options.keep_firings:
        shutil.rmtree(own)


def told(show: Show, what: str, total: int) -> Callable[[int], None]:
    """Return a function that is told how much is done."""
    return lambda done: show(what, min(done, total), total)


def text_of(source: ActivationSource) -> Callable[[Sequence[int]], list[str]] | None:
    """Return what gives the strings of tokens, None for a source without a tokenizer."""
    if source.model is None:
        return None
    tokenizer = source.model.tokenizer
    return lambda ids: [tokenizer.decode([n]) for n in ids]
