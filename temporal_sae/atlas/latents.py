"""`latents.parquet`: a row for every latent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from temporal_sae.atlas import statistics
from temporal_sae.atlas.documents import DocumentCounts
from temporal_sae.atlas.examples import TextOf
from temporal_sae.atlas.firings import Firings
from temporal_sae.atlas.nearest import Nearest
from temporal_sae.atlas.relations import RELATIVES, Relatives
from temporal_sae.atlas.summaries import Summaries

LOGITS = {"logit_ids": pa.int32(), "logits": pa.float32(), "logit_tokens": pa.string()}
SCHEMA = pa.schema(
    [
        ("latent", pa.int32()),
        ("n", pa.int64()),
        ("density", pa.float64()),
        *((name, pa.float32()) for name in ("max_activation", "mean_activation")),
        *((name, pa.float64()) for name in ("fano_factor", "burstiness")),
        ("n_documents", pa.int32()),
        ("degree", pa.int32()),
        ("community", pa.int32()),
        ("top_token_ids", pa.list_(pa.int32())),
        ("top_token_shares", pa.list_(pa.float32())),
        ("top_tokens", pa.list_(pa.string())),
        ("histogram", pa.list_(pa.int64())),
        ("positions", pa.list_(pa.int64())),
        ("nearest_by_cosine", pa.list_(pa.int32())),
        ("nearest_cosines", pa.list_(pa.float32())),
        ("nearest_by_phi", pa.list_(pa.int32())),
        ("nearest_phis", pa.list_(pa.float64())),
        *((name, pa.list_(pa.int32())) for name in RELATIVES),
        *(
            (f"{end}_{name}", pa.list_(kind))
            for end in ("top", "bottom")
            for name, kind in LOGITS.items()
        ),
        ("logit_histogram", pa.list_(pa.int64())),
        ("logit_range", pa.list_(pa.float32())),
        ("snapshot_cosines", pa.list_(pa.float32())),
        ("seed_latents", pa.list_(pa.int32())),
        ("seed_cosines", pa.list_(pa.float32())),
    ]
)


class Partners(NamedTuple):
    """The rows of the table of pairs, by latent.

    Attributes:
        by_phi: the nearest by φ.
        relatives: by relation.
        degree: how many rows hold each latent, int64.
    """

    by_phi: Nearest
    relatives: Relatives
    degree: np.ndarray

    @classmethod
    def none(cls, n_latents: int) -> Partners:
        """Return those of a table without rows."""
        return cls(Nearest(n_latents), Relatives(n_latents), np.zeros(n_latents, np.int64))

    def add(self, rows: pa.Table) -> None:
        """Take in some rows."""
        i, j, phi = (rows[name].to_numpy() for name in ("i", "j", "phi"))
        self.by_phi.add(i, j, phi)
        self.relatives.add(rows)
        for of in (i, j):
            self.degree[:] += np.bincount(of, minlength=len(self.degree))


def latent_table(
    firings: Firings,
    counts: np.ndarray,
    documents: DocumentCounts,
    by_cosine: tuple[np.ndarray, np.ndarray],
    summaries: Summaries,
    partners: Partners,
    text_of: TextOf | None,
    further: Mapping[str, object] | None = None,
) -> pa.Table:
    """Return the table of all latents.

    Args:
        firings: of all latents.
        counts: tokens in which each fires.
        documents: in which each fires.
        by_cosine: the nearest in direction, and the cosines.
        summaries: of the latents.
        partners: in the table of pairs.
        text_of: the strings of token ids; None where there is no tokenizer.
        further: columns that do not come from firings; those that are missing have no values.
    """
    windows = counts, summaries.squares, firings.n_windows
    known = summaries.top_ids >= 0
    ids = listed(summaries.top_ids, known)
    shares = summaries.top_sums / np.maximum(summaries.sum, 1e-30)[:, None]
    kept = partners.by_phi.latents >= 0
    columns: dict[str, object] = {
        "latent": np.arange(firings.n_latents, dtype=np.int32),
        "n": counts,
        "density": counts / firings.n_tokens,
        "max_activation": np.where(counts, summaries.maximum, np.float32(np.nan)),
        "mean_activation": statistics.divided(summaries.sum, counts).astype(np.float32),
        "fano_factor": statistics.fano_factor(*windows),
        "burstiness": statistics.overdispersion(*windows),
        "n_documents": documents.of_latents,
        "degree": partners.degree,
        "top_token_ids": ids,
        "top_token_shares": listed(shares, known),
        "top_tokens": [None if text_of is None else text_of(own.tolist()) for own in ids],
        "histogram": list(summaries.histogram),
        "positions": list(summaries.positions),
        "nearest_by_cosine": list(by_cosine[0]),
        "nearest_cosines": list(by_cosine[1]),
        "nearest_by_phi": listed(partners.by_phi.latents, kept),
        "nearest_phis": listed(partners.by_phi.scores, kept),
        **partners.relatives.columns(),
        **(further or {}),
    }
    nothing = [None] * firings.n_latents
    return pa.table({name: columns.get(name, nothing) for name in SCHEMA.names}, SCHEMA)


def listed(rows: np.ndarray, kept: np.ndarray) -> list[np.ndarray]:
    """Return what is kept of each row."""
    return [row[own] for row, own in zip(rows, kept, strict=True)]
