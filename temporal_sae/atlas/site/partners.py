"""The pairs that the pages list, chosen in one pass over the table of pairs and read in another."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from temporal_sae.atlas.nearest import Nearest
from temporal_sae.atlas.relations import RECIPROCAL
from temporal_sae.atlas.site import lists

ROWS_AT_ONCE = 2**20
# Partners of a latent with the largest value of each column; a pair may be there for several.
LISTED = {"phi": 16, "z_in_documents": 10, "decoder_cosine": 10, "c_cos2": 6}
RELATED = "related"  # those with a relation, by |z| in documents
N_RELATED = 24
STRONGEST = 200  # pairs of the whole table that are listed for each column
COUNTED = 4_000_000  # pairs whose counts are held, if there are no more
# What follows from the counts is computed by the page.
SHOWN = (
    "n_ij",
    "fano_factor",
    "overdispersion",
    "documents_ij",
    "document_lift",
    "expected_in_documents",
    "z_in_documents",
    "decoder_cosine",
    "encoder_cosine",
    "relation",
)
# What j is to i, by what i is to j.
TURNED = {
    name: next(other for other, places in RECIPROCAL.items() if places == (of_j, of_i))
    for name, (of_i, of_j) in RECIPROCAL.items()
}


class Pairs:
    """The table of pairs, a part at a time.

    Args:
        path: of the table.
        n_latents: d_sae.

    Attributes:
        n: pairs that it has.
        nearest: the latents with the largest value of each column, for each latent.
        has_counts: whether the pages hold the counts of all pairs.
    """

    def __init__(self, path: Path, n_latents: int) -> None:
        self.path, self.n_latents = path, n_latents
        with pq.ParquetFile(path) as file:
            self.n, self.schema = file.metadata.num_rows, file.schema_arrow.remove_metadata()
        self.has_counts = self.n <= COUNTED
        sizes = LISTED | {RELATED: N_RELATED}
        self.nearest = {name: Nearest(n_latents, n) for name, n in sizes.items()}
        self._strongest = {name: Strongest() for name in sizes}
        self._sizes = np.zeros(n_latents, np.int64)
        self._counts: list[tuple[np.ndarray, np.ndarray]] = []
        self._choose()

    def _parts(self, names: tuple[str, ...]) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Yield i n_latents + j of the pairs of each part of the table, and columns of them."""
        with pq.ParquetFile(self.path) as file:
            for part in file.iter_batches(ROWS_AT_ONCE, columns=["i", "j", *names]):
                if part.num_rows:
                    yield self._key(part["i"].to_numpy(), part["j"].to_numpy()), part

    def _key(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return i.astype(np.int64) * self.n_latents + j

    def _choose(self) -> None:
        for key, part in self._parts((*LISTED, "n_ij", "relation")):
            self._take_counts(part)
            scores = {name: part[name].to_numpy(zero_copy_only=False) for name in LISTED}
            has_relation = part["relation"].is_valid().to_numpy(zero_copy_only=False)
            scores[RELATED] = np.where(has_relation, np.abs(scores["z_in_documents"]), np.nan)
            for name, score in scores.items():
                kept = np.flatnonzero(~np.isnan(score))
                i, j, score = part["i"].to_numpy()[kept], part["j"].to_numpy()[kept], score[kept]
                self.nearest[name].add(i, j, score)
                self._strongest[name].add(key[kept], score)

    def _take_counts(self, part: pa.RecordBatch) -> None:
        if self.has_counts:
            i, j, n_ij = (part[name].to_numpy() for name in ("i", "j", "n_ij"))
            self._sizes += np.bincount(i, minlength=self.n_latents)
            self._counts.append((j, n_ij))

    @property
    def count_starts(self) -> np.ndarray:
        """Return where the counts of each latent begin in their files, and the end of all."""
        return np.concatenate([[0], self._sizes.cumsum()])

    def counts(self) -> Iterator[dict[str, object]]:
        """Yield the files of n_ij of all pairs i < j."""
        if self._counts:
            j, n_ij = (np.concatenate(column) for column in zip(*self._counts, strict=True))
            columns = {"partners": j, "n_ij": n_ij}
            yield from lists.files(self.count_starts, columns, ascending="partners")

    @cached_property
    def _directed(self) -> np.ndarray:
        """The pairs that latents list, as latent n_latents + partner, ascending."""
        chosen = [of_both(nearest.latents) for nearest in self.nearest.values()]
        return np.unique(np.concatenate([self._key(*both) for both in chosen]))

    @cached_property
    def _read(self) -> tuple[np.ndarray, pa.Table]:
        """The pairs that are shown, as i n_latents + j, ascending, and their rows."""
        latent, partner = divmod(self._directed, self.n_latents)
        listed = self._key(np.minimum(latent, partner), np.maximum(latent, partner))
        wanted = np.unique(np.concatenate([listed, *(s.keys for s in self._strongest.values())]))
        names = tuple(name for name in SHOWN if name in self.schema.names)
        parts = [self.schema.empty_table().select(names)]
        for own, part in self._parts(names):
            lo, hi = np.searchsorted(wanted, [own[0], own[-1] + 1])
            places = np.searchsorted(own, wanted[lo:hi])
            parts.append(pa.Table.from_batches([part.take(pa.array(places))]).select(names))
        return wanted, pa.concat_tables(parts).combine_chunks()

    def _rows(self, key: np.ndarray) -> pa.Table:
        wanted, rows = self._read
        return rows.take(pa.array(np.searchsorted(wanted, key)))

    def listed(self) -> pa.Table:
        """Return the pairs that a latent lists, for each latent: `latent`, `partner` and `SHOWN`.

        They are by latent, and the relation is what the latent is to its partner.
        """
        latent, partner = divmod(self._directed, self.n_latents)
        found = self._rows(self._key(np.minimum(latent, partner), np.maximum(latent, partner)))
        names = pa.array(sided(found["relation"].to_pylist(), latent > partner), pa.string())
        found = found.set_column(found.column_names.index("relation"), "relation", names)
        for place, (name, column) in enumerate({"latent": latent, "partner": partner}.items()):
            found = found.add_column(place, name, pa.array(column, pa.int32()))
        return found

    def strongest(self) -> dict[str, tuple[np.ndarray, np.ndarray, pa.Table]]:
        """Return (i, j, rows) of the pairs with the largest values of each column, falling."""
        keys = {name: strongest.keys for name, strongest in self._strongest.items()}
        return {name: (*divmod(key, self.n_latents), self._rows(key)) for name, key in keys.items()}


class Strongest:
    """The pairs with the largest scores, the largest first; of equal ones the earlier."""

    def __init__(self) -> None:
        self.keys, self._scores = np.empty(0, np.int64), np.empty(0)

    def add(self, keys: np.ndarray, scores: np.ndarray) -> None:
        """Take in some pairs."""
        keys, scores = np.append(self.keys, keys), np.append(self._scores, scores)
        if len(scores) > STRONGEST:
            least = np.partition(scores, -STRONGEST)[-STRONGEST]
            keys, scores = keys[scores >= least], scores[scores >= least]
        order = np.argsort(-scores, kind="stable")[:STRONGEST]
        self.keys, self._scores = keys[order], scores[order]


def of_both(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return latent and partner of a matrix of partners, -1 where there are fewer."""
    latent, place = np.nonzero(latents >= 0)
    return latent, latents[latent, place]


def sided(relations: list[str | None], is_turned: np.ndarray) -> list[str | None]:
    """Return what a latent is to its partner, where the table says what i is to j."""
    pairs = zip(relations, is_turned.tolist(), strict=True)
    return [TURNED.get(name or "", name) if turned else name for name, turned in pairs]
