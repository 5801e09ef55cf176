"""From an SAE and a source of activations to the tables of its atlas."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from temporal_sae.activations import ActivationSource
from temporal_sae.activations.unembedding import Unembedding
from temporal_sae.atlas import examples, latents, pairs, stability
from temporal_sae.atlas.ablation_columns import ablate, check_source
from temporal_sae.atlas.absorption import Candidates
from temporal_sae.atlas.chance import dealt_out
from temporal_sae.atlas.communities import Topics
from temporal_sae.atlas.counting import firing_counts, postings_of, ranges
from temporal_sae.atlas.documents import DocumentCounts
from temporal_sae.atlas.examples import LEFT, RIGHT, Text, TextOf, example_table, token_table
from temporal_sae.atlas.explanations import EXPLANATIONS
from temporal_sae.atlas.firings import Firings, FiringsWriter, remove_firings
from temporal_sae.atlas.folder import EXAMPLES, LATENTS, OVERLAPS, PAIRS, TOKENS, Atlas
from temporal_sae.atlas.gather import gather
from temporal_sae.atlas.graph import write_graph
from temporal_sae.atlas.latents import Partners, latent_table
from temporal_sae.atlas.logits import logit_columns
from temporal_sae.atlas.match import SIMILAR
from temporal_sae.atlas.nearest import nearest_by_cosine
from temporal_sae.atlas.pairs import Choice, Directions, pair_table, relations_in, write_table
from temporal_sae.atlas.relations import RELATIONS, discoveries
from temporal_sae.atlas.site import write_site
from temporal_sae.atlas.stability import across_seeds, over_training, overlap_table
from temporal_sae.atlas.summaries import Summaries
from temporal_sae.errors import RunError
from temporal_sae.files import set_aside
from temporal_sae.sae import SparseAutoencoder

log = logging.getLogger(__name__)

FIRINGS = "firings"
Show = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """The options of an atlas.

    Attributes:
        n_tokens: of the text, at least.
        window_size: tokens of a window, for the Fano factor and the overdispersion.
        choice: which pairs the table holds.
        seed: fixes the order of the documents.
        keep_firings: leave the firings on disk, for a longer pass.
        title: of the atlas.
        snapshots: folders of the same SAE at earlier steps.
        others: folders of other SAEs, or of runs, to look for the same latents in.
        n_ablated: examples of each latent at which it is ablated.
    """

    n_tokens: int = 1_000_000
    window_size: int = 1000
    choice: Choice = field(default_factory=Choice)
    seed: int = 0
    keep_firings: bool = False
    title: str = ""
    snapshots: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()
    n_ablated: int = 0


class Known(NamedTuple):
    """Knowledge of the latents that does not come from their firings.

    Attributes:
        directions: of the latents.
        text_of: the strings of token ids; None where there is no tokenizer.
        columns: of the table of latents.
        facts: about SAE and source.
    """

    directions: Directions
    text_of: TextOf | None = None
    columns: Mapping[str, object] = MappingProxyType({})
    facts: Mapping[str, object] = MappingProxyType({})

    @classmethod
    def of(cls, sae: SparseAutoencoder, source: ActivationSource, options: Options) -> Known:
        """Return that of an SAE and an open source.

        Raises:
            RunError: an SAE to be compared with does not fit.
        """
        directions, model, text = Directions.of(sae), source.model, text_of(source)
        columns = over_training(directions.decoder, options.snapshots)
        columns |= across_seeds(directions.decoder, options.others)
        unembedding = Unembedding.of(model) if model else None
        if unembedding and text:
            columns |= logit_columns(sae.weights()["W_dec"], unembedding, text)
        facts = {
            "title": options.title,
            "model_name": model.name if model else None,
            "hook_name": source.metadata()["hook_name"],
            "architecture": sae.architecture,
            "d_in": sae.d_in,
            "d_sae": sae.d_sae,
            "k": getattr(sae, "k", None),
            "snapshots": [int(path.name.removeprefix("step_")) for path in options.snapshots],
            "seeds": [str(path) for path in options.others],
            "final_norm": unembedding.convention if unembedding else None,
        }
        return cls(directions, text, columns, facts)


def build_atlas(
    folder: Path,
    sae: SparseAutoencoder,
    source: ActivationSource,
    identity: dict[str, Any],
    options: Options,
    show: Show = lambda what, done, total: None,
) -> None:
    """Write the tables of an SAE's atlas.

    Args:
        folder: receives them; the firings are kept in it meanwhile.
        sae: takes rows as the source gives them, on the device of the source.
        source: it is open.
        identity: of SAE and text; firings of another are not continued.
        options: see there.
        show: is told what is being done, and how much of how much is.
    """
    if options.n_ablated:
        check_source(source)
    known = Known.of(sae, source, options)  # first: it may find a mistake
    own = folder / FIRINGS
    writer = FiringsWriter(own, sae.d_sae, identity | {"seed": options.seed})
    progress = told(show, "tokens", options.n_tokens)
    gather(sae, source, writer, options.n_tokens, options.seed, progress)
    firings = Firings(own, sae.d_sae, options.window_size)
    write_tables(folder, firings, known, options, show)
    if options.n_ablated:
        ablate(folder, sae, source, options.n_ablated, seed=options.seed, show=show)
    log.info("page of all latents: %s", write_site(Atlas(folder), firings, folder, show))
    if not options.keep_firings:
        remove_firings(own)


def write_tables(
    folder: Path,
    firings: Firings,
    known: Known,
    options: Options,
    show: Show = lambda what, done, total: None,
) -> None:
    """Write the tables of some firings, and say how many pairs have a relation.

    Args:
        folder: receives them.
        firings: of all latents.
        known: of the latents, beside their firings.
        options: see there.
        show: is told what is being done, and how much of how much is.
    """
    counts, documents, choice = firing_counts(firings), DocumentCounts(firings), options.choice
    by_cosine = nearest_by_cosine(known.directions.decoder)
    keep_explanations(folder, by_cosine[1])
    candidates = Candidates.of(*by_cosine, counts)
    by_chance = relations_by_chance(firings, counts, documents, candidates, options, show)
    partners, topics = Partners.none(firings.n_latents), Topics(documents, counts)
    facts: dict[str, object] = {
        **known.facts,
        "n_tokens": firings.n_tokens,
        "n_windows": firings.n_windows,
        "window_size": firings.window_size,
        "n_documents": len(documents.sizes),
        **choice._asdict(),
        "relations_by_chance": dict(zip(RELATIONS[1:], map(int, by_chance[1:]), strict=True)),
    }

    def parts() -> Iterator[pa.Table]:
        progress = told(show, "latents", firings.n_latents)
        arguments = firings, counts, documents, known.directions, choice, candidates
        for part in pair_table(*arguments, progress):
            partners.add(part)
            topics.add(part)
            yield part

    n_pairs = write_table(folder / PAIRS, parts(), pairs.SCHEMA, facts)
    text = Text.of(firings)
    summaries = write_examples(folder, firings, counts, text, facts)
    facts |= {"position_edges": text.tokens.position_edges, "context": [LEFT, RIGHT]}
    facts["tokens_at_positions"] = text.tokens.in_buckets
    columns = {"community": topics.communities(), **known.columns}
    table = latent_table(
        firings, counts, documents, by_cosine, summaries, partners, known.text_of, columns
    )
    write_table(folder / LATENTS, [table], latents.SCHEMA, facts)
    (folder / OVERLAPS).unlink(missing_ok=True)
    if options.snapshots:
        overlaps = overlap_table(table, known.directions.decoder, options.snapshots)
        write_table(folder / OVERLAPS, [overlaps], stability.SCHEMA, facts)
    write_table(folder / TOKENS, [token_table(text, known.text_of)], examples.TOKENS_SCHEMA, facts)
    write_graph(Atlas(folder))
    log.info(
        "%s pairs that fire together in at least %d of %s tokens, and %s latents: %s",
        f"{n_pairs:,}",
        choice.min_count,
        f"{firings.n_tokens:,}",
        f"{firings.n_latents:,}",
        folder,
    )
    for line in discoveries(partners.relatives.found, by_chance):
        log.info("%s", line)


def keep_explanations(folder: Path, cosines: np.ndarray) -> None:
    """Set explanations aside, unless the tables that are to be replaced are of the same SAE.

    Args:
        folder: of the atlas.
        cosines: of the latents' directions with the nearest ones, by latent.
    """
    path = folder / EXPLANATIONS
    if not path.exists():
        return
    try:
        before = Atlas(folder).latents["nearest_cosines"].combine_chunks().flatten().to_numpy()
    except (RunError, KeyError):
        before = np.empty(0)
    if len(before) != cosines.size or not np.allclose(
        before, cosines.ravel(), atol=SIMILAR, equal_nan=True
    ):
        aside = set_aside(path, ".earlier")
        log.warning("%s: is not known to be of this SAE: kept as %s", path, aside.name)


def write_examples(
    folder: Path, firings: Firings, counts: np.ndarray, text: Text, facts: Mapping[str, object]
) -> Summaries:
    """Write the table of examples; return the numbers of all latents that come with them."""
    found: list[Summaries] = []

    def parts() -> Iterator[pa.Table]:
        for lo, hi in ranges(counts):
            postings = postings_of(firings, counts, lo, hi)
            found.append(Summaries.of(firings, postings, text.tokens))
            yield example_table(firings, postings, found[-1], text)

    write_table(folder / EXAMPLES, parts(), examples.SCHEMA, facts)
    return Summaries(*map(np.concatenate, zip(*found, strict=True)))


def relations_by_chance(
    firings: Firings,
    counts: np.ndarray,
    documents: DocumentCounts,
    candidates: Candidates,
    options: Options,
    show: Show,
) -> np.ndarray:
    """Return how many pairs have each relation once documents have dealt their firings out."""
    dealt = dealt_out(firings, documents, options.seed)
    progress = told(show, "latents by chance", firings.n_latents)
    return relations_in(dealt, counts, documents, options.choice, candidates, progress)


def told(show: Show, what: str, total: int) -> Callable[[int], None]:
    """Return a function that is told how much is done."""
    return lambda done: show(what, min(done, total), total)


def text_of(source: ActivationSource) -> TextOf | None:
    """Return what gives the strings of tokens, None for a source without a tokenizer."""
    if source.model is None:
        return None
    tokenizer = source.model.tokenizer
    return lambda ids: [tokenizer.decode([n]) for n in ids]
