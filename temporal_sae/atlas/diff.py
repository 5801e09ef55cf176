"""Differences between two atlases: of pairs that fire together, and of latents, with z.

A count of tokens is taken for a Poisson count, or where its Fano factor in windows is above 1, for
one of that many times the variance. z is the difference of two rates over the deviation that it
would have if both were the same, positive where that of B is larger.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from temporal_sae.atlas.folder import Atlas
from temporal_sae.atlas.match import Matches
from temporal_sae.atlas.statistics import divided
from temporal_sae.errors import RunError

Array = np.ndarray
TURNED = {"parent": "child", "child": "parent", "absorber": "absorbed", "absorbed": "absorber"}
OF_PAIRS = {"n_ij": pa.int64(), "rate": pa.float64(), "phi": pa.float64(), "relation": pa.string()}
PAIRS_SCHEMA = pa.schema(
    [
        *((name, pa.int32()) for name in ("i", "j", "i_b", "j_b")),
        *((f"{name}_{side}", kind) for name, kind in OF_PAIRS.items() for side in "ab"),
        *((name, pa.float64()) for name in ("z_rate", "z_lift")),
    ]
)
OF_LATENTS = {"n": pa.int64(), "density": pa.float64(), "fano_factor": pa.float64()}
LATENTS_SCHEMA = pa.schema(
    [
        *((name, pa.int32()) for name in ("latent", "latent_b")),
        ("cosine", pa.float32()),
        *((f"{name}_{side}", kind) for name, kind in OF_LATENTS.items() for side in "ab"),
        ("z", pa.float64()),
    ]
)


class Counted(NamedTuple):
    """Counts in the text of one atlas; those that are not known are NaN.

    Attributes:
        n: tokens.
        of: of how many, float64: of all tokens, or of those that chance would give.
        fano: Fano factor of the count in windows.
    """

    n: Array
    of: Array
    fano: Array

    @property
    def rate(self) -> Array:
        """The share that they are."""
        return divided(self.n, self.of)

    @property
    def spread(self) -> Array:
        """The variance over the mean of the count."""
        return np.fmax(self.fano, 1.0)

    def filled(self, rate: Array, most: float) -> Counted:
        """Return counts up to `most`, as near to a rate as can be, for those that are not known."""
        possible = np.clip(rate * self.of, 0.0, most)
        return self._replace(n=np.where(np.isnan(self.n), possible, self.n))


def rate_z(a: Counted, b: Counted) -> Array:
    """Return z of two rates, NaN where both are 0."""
    rate = (a.n + b.n) / (a.of + b.of)
    variance = rate * (divided(a.spread, a.of) + divided(b.spread, b.of))
    return divided(b.rate - a.rate, np.sqrt(variance))


class Pairs(NamedTuple):
    """Some pairs of one atlas; what is not known is NaN.

    Attributes:
        in_text: tokens in which both fire, of all.
        against_chance: the same, of those in which they would if they were independent.
        most: tokens of a pair that is not known, at most; NaN if it may be any number.
        phi: correlation.
        relation: of i to j, strings.
    """

    in_text: Counted
    against_chance: Counted
    most: float
    phi: Array
    relation: pa.Array


def z_of(a: Pairs, b: Pairs, name: str) -> Array:
    """Return z of one of the counts of `Pairs`."""
    one, two = getattr(a, name), getattr(b, name)
    return rate_z(one.filled(two.rate, a.most), two.filled(one.rate, b.most))


class Side:
    """The pairs of one atlas whose latents both have counterparts, under the numbers of A.

    Args:
        atlas: A or B.
        own: its latents with counterparts.
        of_a: their numbers in A.
        n_latents: of A.

    Raises:
        RunError: a pair is of latents that there are not, or nothing says which pairs are left out.

    Attributes:
        keys: i · d_sae + j, i < j, int64, ascending.
    """

    def __init__(self, atlas: Atlas, own: Array, of_a: Array, n_latents: int) -> None:
        facts, fires = atlas.facts, atlas.latents["n"].to_numpy()
        self.n_tokens = float(facts["n_tokens"])
        if not {"min_count", "min_z"} <= facts.keys():
            raise RunError(
                f"{atlas.folder}: does not say which pairs it leaves out; build it again"
            )
        self.most = facts["min_count"] - 1.0 if facts["min_z"] <= 0 else np.nan
        number, self.n = np.full(len(fires), -1), np.zeros(n_latents)
        number[own], self.n[of_a] = of_a, fires[own]
        table = atlas.read_pairs("i", "j", "n_ij", "phi", "fano_factor", "relation")
        pairs = [table[name].to_numpy() for name in "ij"]
        if not all(((side >= 0) & (side < len(fires))).all() for side in pairs):
            told = "its tables do not belong together; build it again"
            raise RunError(f"{atlas.folder}: {told}")
        i, j = (number[side] for side in pairs)
        keys = np.minimum(i, j) * n_latents + np.maximum(i, j)
        kept = np.flatnonzero((i >= 0) & (j >= 0))
        kept = kept[keys[kept].argsort(kind="stable")]
        self.keys = keys[kept]
        self._table = table.take(pa.array(kept))
        self._is_turned = (i > j)[kept]

    def pairs(self, keys: Array) -> Pairs:
        """Return some pairs, known or not."""
        rows = np.searchsorted(self.keys, keys)
        is_known = np.isin(keys, self.keys, assume_unique=True)
        found = self._table.take(pa.array(rows, mask=~is_known))
        n, phi, fano = (
            pc.cast(found[name], pa.float64()).to_numpy() for name in ("n_ij", "phi", "fano_factor")
        )
        is_turned = pa.array(self._is_turned).take(pa.array(rows, mask=~is_known))
        relation = turned(found["relation"].combine_chunks(), is_turned)
        i, j = divmod(keys, len(self.n))
        in_text = Counted(n, np.full(len(keys), self.n_tokens), fano)
        against_chance = in_text._replace(of=self.n[i] * self.n[j] / self.n_tokens)
        return Pairs(in_text, against_chance, self.most, phi, relation)


def turned(relation: pa.Array, is_turned: pa.Array) -> pa.Array:
    """Return what j is to i instead, where a pair is turned round."""
    found = relation
    for before, after in TURNED.items():
        changes = pc.fill_null(pc.and_(is_turned, pc.equal(relation, before)), False)
        found = pc.if_else(changes, after, found)
    return found


def pair_differences(a: Atlas, b: Atlas, matches: Matches, least_z: float) -> pa.Table:
    """Return the pairs of which either z is that large, by i and then j.

    A pair that has no row in one atlas fires there in fewer tokens than any that has; of the counts
    that are possible it is given the one that makes the difference smallest.

    Args:
        a, b: the atlases.
        matches: of their latents.
        least_z: in size; 0 for all pairs.
    """
    size = len(a.latents)
    sides = Side(a, matches.a, matches.a, size), Side(b, matches.b, matches.a, size)
    keys = np.union1d(*(side.keys for side in sides))
    one, two = (side.pairs(keys) for side in sides)
    i, j = divmod(keys, size)
    counterpart = np.full(size, -1)
    counterpart[matches.a] = matches.b
    columns: dict[str, object] = {"i": i, "j": j, "i_b": counterpart[i], "j_b": counterpart[j]}
    for name, pairs in (("a", one), ("b", two)):
        columns[f"n_ij_{name}"] = pa.array(pairs.in_text.n, from_pandas=True)
        columns[f"rate_{name}"] = pairs.in_text.rate
        columns[f"phi_{name}"], columns[f"relation_{name}"] = pairs.phi, pairs.relation
    columns |= {"z_rate": z_of(one, two, "in_text"), "z_lift": z_of(one, two, "against_chance")}
    table = pa.table({name: columns[name] for name in PAIRS_SCHEMA.names}, PAIRS_SCHEMA)
    large = (np.abs(table[name].to_numpy()) >= least_z for name in ("z_rate", "z_lift"))
    return table.filter(pa.array(np.logical_or(*large))) if least_z > 0 else table


def latent_differences(a: Atlas, b: Atlas, matches: Matches) -> pa.Table:
    """Return the latents that have counterparts, by their number in A."""
    columns: dict[str, object] = {"latent": matches.a, "latent_b": matches.b}
    columns["cosine"] = matches.cosine
    counts = []
    for name, atlas, own in (("a", a, matches.a), ("b", b, matches.b)):
        n, fano = (atlas.latents[n].to_numpy()[own] for n in ("n", "fano_factor"))
        total = np.full(len(own), float(atlas.facts["n_tokens"]))
        counts.append(Counted(n, total, fano))
        columns |= {f"n_{name}": n, f"fano_factor_{name}": fano}
        columns[f"density_{name}"] = counts[-1].rate
    columns["z"] = rate_z(*counts)
    if matches.cosine is None:
        columns["cosine"] = pa.nulls(len(matches.a), pa.float32())
    return pa.table({name: columns[name] for name in LATENTS_SCHEMA.names}, LATENTS_SCHEMA)
