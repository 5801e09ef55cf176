"""`latents.parquet`: a row for every latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from temporal_sae.activations.rows import TOKEN
from temporal_sae.atlas import statistics
from temporal_sae.atlas.counting import Postings, postings_of, ranges
from temporal_sae.atlas.documents import DocumentCounts
from temporal_sae.atlas.firings import Firings
from temporal_sae.atlas.nearest import Nearest, nearest_by_cosine
from temporal_sae.atlas.pairs import Directions
from temporal_sae.atlas.relations import Relatives

N_TOP_TOKENS = 10

SCHEMA = pa.schema(
    [
        ("latent", pa.int32()),
        ("n", pa.int64()),
        ("density", pa.float64()),
        *((name, pa.float32()) for name in ("max_activation", "mean_activation")),
        *((name, pa.float64()) for name in ("fano_factor", "burstiness")),
        ("n_documents", pa.int32()),
        ("top_token_ids", pa.list_(pa.int32())),
        ("top_token_shares", pa.list_(pa.float32())),
        ("top_tokens", pa.list_(pa.string())),
        ("nearest_by_cosine", pa.list_(pa.int32())),
        ("nearest_cosines", pa.list_(pa.float32())),
        ("nearest_by_phi", pa.list_(pa.int32())),
        ("nearest_phis", pa.list_(pa.float64())),
        *((name, pa.list_(pa.int32())) for name in ("parents", "children", "duplicates")),
    ]
)


def latent_table(
    firings: Firings,
    counts: np.ndarray,
    documents: DocumentCounts,
    directions: Directions,
    by_phi: Nearest,
    relatives: Relatives,
    text_of: Callable[[Sequence[int]], list[str]] | None,
) -> pa.Table:
    """Return the table.

    Args:
        firings: of all latents.
        counts: tokens in which each fires.
        documents: in which each fires.
        directions: of the latents.
        by_phi: the nearest by φ.
        relatives: parents, children and duplicates.
        text_of: the strings of token ids; None where there is no tokenizer.
    """
    facts: list[dict[str, object]] = []
    for lo, hi in ranges(counts):
        postings = postings_of(firings, counts, lo, hi)
        facts += [of_latent(firings, postings, latent) for latent in range(lo, hi)]
    columns: dict[str, object] = {name: [fact[name] for fact in facts] for name in facts[0]}
    ids = [fact["top_token_ids"] for fact in facts]
    cosine_latents, cosines = nearest_by_cosine(directions.decoder)
    kept = by_phi.latents >= 0
    columns |= {
        "latent": np.arange(firings.n_latents, dtype=np.int32),
        "n": counts,
        "density": counts / firings.n_tokens,
        "n_documents": documents.of_latents,
        "top_tokens": [None if text_of is None else text_of(i) for i in ids],  # type: ignore[arg-type]
        "nearest_by_cosine": list(cosine_latents),
        "nearest_cosines": list(cosines),
        "nearest_by_phi": [row[own] for row, own in zip(by_phi.latents, kept, strict=True)],
        "nearest_phis": [row[own] for row, own in zip(by_phi.scores, kept, strict=True)],
    }
    columns |= relatives.columns()
    return pa.table({name: columns[name] for name in SCHEMA.names}, SCHEMA)


def of_latent(firings: Firings, postings: Postings, latent: int) -> dict[str, object]:
    """Return what the firings of one latent say about it."""
    own = postings.of(latent)
    tokens, values = postings.tokens[own], firings.values[postings.places[own]]
    windows = np.bincount(tokens.astype(np.int64) // firings.window_size).astype(np.int64)
    dispersion = len(tokens), int((windows**2).sum()), firings.n_windows
    ids, shares = top_tokens(firings.places[tokens, TOKEN], values)
    return {
        "max_activation": values.max() if len(values) else np.nan,
        "mean_activation": values.mean() if len(values) else np.nan,
        "fano_factor": float(statistics.fano_factor(*dispersion)),
        "burstiness": float(statistics.overdispersion(*dispersion)),
        "top_token_ids": ids,
        "top_token_shares": shares,
    }


def top_tokens(ids: np.ndarray, values: np.ndarray) -> tuple[list[int], list[float]]:
    """Return the tokens with the largest shares of a latent's activation, and the shares."""
    names, places = np.unique(ids, return_inverse=True)
    sums = np.bincount(places, values, len(names))
    order = np.argsort(-sums, kind="stable")[:N_TOP_TOKENS]
    order = order[names[order] >= 0]  # of rows whose tokens nobody knows
    return names[order].tolist(), (sums[order] / max(sums.sum(), 1e-30)).tolist()
