"""Relations between two latents, as their firings show them, and how many pairs have one by chance.

A latent covers another as far as it fires where the other does, beyond what the documents of both
would give by chance: (n_ij - expected) / (n_j - expected) of j by i. It is 1 if i fires in every
token of j, and about 0 for latents that share no more than a topic, or of which one is frequent.

    parent      i covers j, and j does not cover i: j fires in a part of i's tokens
    child       the other way round
    duplicate   each covers the other
    absorber    j should fire where i does, and is silent there; see `absorption`
    absorbed    the other way round
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from temporal_sae.atlas.statistics import divided

LEAST_COVERAGE = 0.7  # a tenth of the firings missed on both sides leaves .8 and more
LEAST_Z = 6.0  # with five million pairs, chance alone reaches 5
RELATIONS = ("", "parent", "child", "duplicate", "absorber", "absorbed")
NONE, PARENT, CHILD, DUPLICATE, ABSORBER, ABSORBED = range(len(RELATIONS))
# Where j is listed with i, and i with j.
RECIPROCAL = {
    "parent": ("children", "parents"),
    "child": ("parents", "children"),
    "duplicate": ("duplicates", "duplicates"),
    "absorber": ("absorbed", "absorbers"),
    "absorbed": ("absorbers", "absorbed"),
}
RELATIVES = tuple(dict.fromkeys(of_i for of_i, _ in RECIPROCAL.values()))


class Relatives:
    """Latents that each latent has a relation to, by what they are to it.

    Args:
        n_latents: d_sae.

    Attributes:
        found: how many pairs have each of `RELATIONS`.
    """

    def __init__(self, n_latents: int) -> None:
        self.found = np.zeros(len(RELATIONS), np.int64)
        self._of: dict[str, list[list[int]]] = {
            name: [[] for _ in range(n_latents)] for name in RELATIVES
        }

    def add(self, pairs: pa.Table) -> None:
        """Take in some rows of the table of pairs."""
        related = pairs.filter(pc.is_valid(pairs["relation"]))
        self.found[NONE] += len(pairs) - len(related)
        for i, j, name in zip(
            *(related[n].to_pylist() for n in ("i", "j", "relation")), strict=True
        ):
            self.found[RELATIONS.index(name)] += 1
            of_i, of_j = RECIPROCAL[name]
            self._of[of_i][i].append(j)
            self._of[of_j][j].append(i)

    def columns(self) -> dict[str, list[list[int]]]:
        """Return the relatives of each latent, by what they are to it."""
        return self._of


def discoveries(found: np.ndarray, by_chance: np.ndarray) -> list[str]:
    """Return a line on each kind of relation, with the share that is false.

    Args:
        found: how many pairs have each of `RELATIONS`.
        by_chance: how many do after documents have dealt their firings out at random.
    """
    kinds = {
        "parent and child": (PARENT, CHILD),
        "duplicates": (DUPLICATE,),
        "absorber and absorbed": (ABSORBER, ABSORBED),
    }
    lines = []
    for name, places in kinds.items():
        n, false = (int(sum(counts[p] for p in places)) for counts in (found, by_chance))
        rate = false_discovery_rate(n, false)
        told = f"{n:,} pairs look like {name}; by chance {false:,} would"
        lines.append(f"{told}: false discovery rate at most {rate:.2g}" if n else told)
    return lines


def false_discovery_rate(found: int, by_chance: int) -> float:
    """Return the share of pairs that chance gives, counting one more than it gave; at most 1."""
    return min(1.0, (by_chance + 1) / max(found, 1))


def coverage(n_ij: np.ndarray, expected: np.ndarray, n_j: np.ndarray) -> np.ndarray:
    """Return how far i covers j; NaN where chance alone already has i in every token of j."""
    return divided(n_ij - expected, n_j - expected)


def relation(i_covers_j: np.ndarray, j_covers_i: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the place in `RELATIONS` of what i is to j, int8.

    Args:
        i_covers_j, j_covers_i: see `coverage`.
        z: of n_ij against chance in the documents.
    """
    by_i, by_j = (covers >= LEAST_COVERAGE for covers in (i_covers_j, j_covers_i))
    found = PARENT * by_i + CHILD * by_j  # 3 is both
    return np.where(z >= LEAST_Z, found, NONE).astype(np.int8)
