"""`pairs.parquet`: a row for every pair of latents that fires together often enough."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor
from torch.nn.functional import normalize

from temporal_sae.atlas import loops, statistics
from temporal_sae.atlas.absorption import Candidates, looks_absorbed
from temporal_sae.atlas.counting import PairCounts, Sparse, pair_counts, postings_of, ranges
from temporal_sae.atlas.documents import DocumentCounts
from temporal_sae.atlas.folder import FACTS
from temporal_sae.atlas.relations import (
    ABSORBED,
    ABSORBER,
    LEAST_COVERAGE,
    NONE,
    RELATIONS,
    coverage,
    relation,
)
from temporal_sae.atlas.statistics import Counts
from temporal_sae.files import TEMPORARY, sync, sync_folder
from temporal_sae.kernels.threads import on_threads
from temporal_sae.sae import SparseAutoencoder

PAIRS_AT_ONCE = 2**20  # of which decoder rows are gathered


class Choice(NamedTuple):
    """The pairs that the table holds.

    Attributes:
        min_count: tokens in which both fire, at least.
        min_z: |z| against independence, at least.
    """

    min_count: int = 10
    min_z: float = 0.0


class Directions(NamedTuple):
    """Unit directions of all latents, [d_sae, d_in]; `encoder` is None of an SAE without W_enc."""

    decoder: Tensor
    encoder: Tensor | None

    @classmethod
    def of(cls, sae: SparseAutoencoder) -> Directions:
        """Return those of an SAE, on the CPU."""
        weights = sae.weights()
        encoder = weights.get("W_enc")

        def unit(rows: Tensor) -> Tensor:
            return normalize(rows.detach().float().cpu())

        return cls(unit(weights["W_dec"]), None if encoder is None else unit(encoder.T))


def pair_table(
    firings: Sparse,
    counts: np.ndarray,
    documents: DocumentCounts,
    directions: Directions,
    choice: Choice,
    candidates: Candidates,
    show: Callable[[int], None] = lambda latent: None,
) -> Iterator[pa.Table]:
    """Yield the rows of the table, by i and then j, some at a time.

    Args:
        firings: of all latents.
        counts: tokens in which each fires.
        documents: in which each fires.
        directions: of the latents.
        choice: which pairs.
        candidates: for absorption; those that look like it are rows, whatever their number.
        show: is told how many latents are done.
    """
    for read, is_chosen in counted(firings, counts, choice, candidates, show):
        of_documents = related(read, counts, documents, candidates)
        pairs, of_documents = listed(read, of_documents, is_chosen)
        columns = columns_of(pairs, counts, firings) | of_documents
        columns |= cosines(pairs, directions, columns["n_ij"] / firings.n_tokens)
        columns["relation"] = NAMES.take(pa.array(columns["relation"]))
        yield pa.table(columns, SCHEMA)


def relations_in(
    firings: Sparse,
    counts: np.ndarray,
    documents: DocumentCounts,
    choice: Choice,
    candidates: Candidates,
    show: Callable[[int], None] = lambda latent: None,
) -> np.ndarray:
    """Return how many pairs of the table have each of `RELATIONS`; arguments as of `pair_table`."""
    found = np.zeros(len(RELATIONS), np.int64)
    for pairs, is_chosen in counted(firings, counts, choice, candidates, show, in_windows=False):
        # Of the rest no latent covers another, whatever is expected: no documents to be compared.
        least = LEAST_COVERAGE * np.minimum(counts[pairs.i], counts[pairs.j])
        is_likely = pairs.n >= least
        is_likely[candidates.among(pairs.i, pairs.j)[0]] = True
        likely = PairCounts(*(column[is_likely] for column in pairs))
        columns = related(likely, counts, documents, candidates)
        _, columns = listed(likely, columns, is_chosen[is_likely])
        found += np.bincount(columns["relation"], minlength=len(RELATIONS))
        found[NONE] += (~is_likely).sum()
    return found


def counted(
    firings: Sparse,
    counts: np.ndarray,
    choice: Choice,
    candidates: Candidates,
    show: Callable[[int], None],
    in_windows: bool = True,
) -> Iterator[tuple[PairCounts, np.ndarray]]:
    """Yield the pairs that are chosen, marked, and the candidates, by i and then j."""
    for lo, hi in ranges(counts):
        postings = postings_of(firings, counts, lo, hi)
        for found in pair_counts(firings, postings, in_windows, candidates.keys):
            is_chosen = chosen(found, counts, firings.n_tokens, choice)
            is_read = is_chosen.copy()
            is_read[candidates.among(found.i, found.j)[0]] = True
            places = np.flatnonzero(is_read)
            for first in range(0, len(places), PAIRS_AT_ONCE):
                own = places[first : first + PAIRS_AT_ONCE]
                yield PairCounts(*(column[own] for column in found)), is_chosen[own]
        show(hi)


def chosen(pairs: PairCounts, counts: np.ndarray, n_tokens: int, choice: Choice) -> np.ndarray:
    """Mark the pairs that the table holds by their count and z."""
    found: np.ndarray = pairs.n >= choice.min_count
    if choice.min_z > 0:
        places = np.flatnonzero(found)
        n_ij, i, j = (column[places] for column in (pairs.n, pairs.i, pairs.j))
        z = statistics.z_score(Counts.of(n_ij, counts[i], counts[j], n_tokens))
        # A latent that fires in every token has no z; its pairs are kept by their count alone.
        found[places[np.abs(z) < choice.min_z]] = False
    return found


def related(
    pairs: PairCounts, counts: np.ndarray, documents: DocumentCounts, candidates: Candidates
) -> dict[str, np.ndarray]:
    """Return what the documents say about pairs, and the relation that follows."""
    columns = documents.columns(pairs.i, pairs.j, pairs.n)
    expected, z = columns["expected_in_documents"], columns["z_in_documents"]
    i_covers_j = coverage(pairs.n, expected, counts[pairs.j])
    j_covers_i = coverage(pairs.n, expected, counts[pairs.i])
    found = relation(i_covers_j, j_covers_i, z)
    at, which = candidates.among(pairs.i, pairs.j)
    i_is_rarer = candidates.i_is_rarer[which]
    covered = np.where(i_is_rarer, j_covers_i[at], i_covers_j[at])
    absorbed = looks_absorbed(pairs.n[at], expected[at], z[at], covered) & (found[at] == NONE)
    found[at[absorbed]] = np.where(i_is_rarer[absorbed], ABSORBER, ABSORBED)
    return columns | {"i_covers_j": i_covers_j, "j_covers_i": j_covers_i, "relation": found}


def listed(
    pairs: PairCounts, columns: dict[str, np.ndarray], is_chosen: np.ndarray
) -> tuple[PairCounts, dict[str, np.ndarray]]:
    """Return the rows that were chosen or are an absorber and its absorbed."""
    own = is_chosen | (columns["relation"] >= ABSORBER)
    if own.all():
        return pairs, columns
    kept = {name: column[own] for name, column in columns.items()}
    return PairCounts(*(column[own] for column in pairs)), kept


def columns_of(pairs: PairCounts, counts: np.ndarray, firings: Sparse) -> dict[str, np.ndarray]:
    """Return what the counts of pairs say about them."""
    c = Counts.of(pairs.n, counts[pairs.i], counts[pairs.j], firings.n_tokens)
    windows = pairs.n, pairs.squares, firings.n_windows
    return {
        "i": pairs.i,
        "j": pairs.j,
        "n_ij": pairs.n,
        "n_i": counts[pairs.i],
        "n_j": counts[pairs.j],
        "phi": statistics.phi(c),
        "npmi": statistics.npmi(c),
        "lift": statistics.lift(c),
        "jaccard": statistics.jaccard(c),
        "p_i_given_j": statistics.given_j(c),
        "p_j_given_i": statistics.given_i(c),
        "z": statistics.z_score(c),
        "fano_factor": statistics.fano_factor(*windows),
        "overdispersion": statistics.overdispersion(*windows),
    }


def cosines(
    pairs: PairCounts, directions: Directions, rate: np.ndarray
) -> dict[str, np.ndarray | pa.Array]:
    """Return the cosines of pairs, and c·cos², the pair's share of the orthogonality penalty."""

    def cosine(rows: Tensor) -> np.ndarray:
        found = np.empty(len(pairs.i), np.float32)
        on_threads(loops.products, rows.contiguous().numpy(), pairs.i, pairs.j, found)
        return found

    decoder = cosine(directions.decoder)
    encoder = None if directions.encoder is None else cosine(directions.encoder)
    nothing = pa.nulls(len(pairs.i), pa.float32())
    return {
        "decoder_cosine": decoder,
        "encoder_cosine": nothing if encoder is None else encoder,
        "c_cos2": rate * decoder.astype(np.float64) ** 2,
    }


NAMES = pa.array([name or None for name in RELATIONS])
DOCUMENT_COLUMNS = (
    "document_lift",
    "expected_in_documents",
    "z_in_documents",
    "i_covers_j",
    "j_covers_i",
)
SCHEMA = pa.schema(
    [
        *((name, pa.int32()) for name in ("i", "j")),
        *((name, pa.int64()) for name in ("n_ij", "n_i", "n_j")),
        *(
            (name, pa.float64())
            for name in ("phi", "npmi", "lift", "jaccard", "p_i_given_j", "p_j_given_i", "z")
        ),
        *((name, pa.float64()) for name in ("fano_factor", "overdispersion")),
        ("documents_ij", pa.int32()),
        *((name, pa.float64()) for name in DOCUMENT_COLUMNS),
        ("relation", pa.string()),
        ("decoder_cosine", pa.float32()),
        ("encoder_cosine", pa.float32()),
        ("c_cos2", pa.float64()),
    ]
)


def write_table(
    path: Path, parts: Iterable[pa.Table], schema: pa.Schema, facts: Mapping[str, object]
) -> int:
    """Write a table, complete or not at all; returns how many rows it has.

    Args:
        path: of the parquet file.
        parts: of the table, each a row group.
        schema: of the parts.
        facts: go into the metadata of the file, under `temporal_sae`, as JSON.
    """
    schema = schema.with_metadata({FACTS: json.dumps(facts)})
    n_rows, unfinished = 0, path.with_name(f"{TEMPORARY}{path.name}")
    unfinished.unlink(missing_ok=True)  # a writer that was killed left it, or it is a link
    try:
        with unfinished.open("xb") as file:
            with (
                pq.ParquetWriter(file, schema, compression="zstd") as writer,
                ThreadPoolExecutor(1, "tables") as thread,
            ):
                before = None
                for part in parts:  # the next one is made while this is written
                    if before:
                        before.result()
                    part = part.replace_schema_metadata(schema.metadata)
                    before = thread.submit(writer.write_table, part)
                    n_rows += len(part)
                if before:
                    before.result()
            file.flush()
            sync(file.fileno())
        os.replace(unfinished, path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)
    return n_rows
