"""The runs beside a run that differ from it in nothing but the seed, or in the method alone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from temporal_sae.report.neighbours import COMMON, Told, finished_beside, lack_of, seedless

OF_METHOD = ("tracker", "loss")


class Twins(NamedTuple):
    """Runs by which a run can be judged, paired by seed.

    Attributes:
        ours: the run and those that differ from it in the seed alone, by folder.
        theirs: the same without a part of the method.
        lacks: the part that those lack.
    """

    ours: dict[Path, Told]
    theirs: dict[Path, Told]
    lacks: str


def twins(folder: Path, own: Told) -> Twins | None:
    """Return the twins of a run that has the method; None where there are none beside it.

    Args:
        folder: of the run.
        own: its record and results.
    """
    ours, theirs = {own.seed: (folder, own)}, dict[str, dict[int, tuple[Path, Told]]]()
    for path, other in finished_beside(folder):
        if any(differs(other, own, key) for key in COMMON if key != "seed"):
            continue
        if not any(differs(other, own, key) for key in OF_METHOD):
            ours.setdefault(other.seed, (path, other))
        elif lacks := lack_of(other.results, own.results):
            theirs.setdefault(lacks, {}).setdefault(other.seed, (path, other))
    for lacks, by_seed in sorted(theirs.items(), key=lambda item: len(item[0]), reverse=True):
        shared = sorted(ours.keys() & by_seed.keys())
        if shared:
            return Twins(
                dict(ours[seed] for seed in shared), dict(by_seed[seed] for seed in shared), lacks
            )
    return None


def differs(a: Told, b: Told, key: str) -> bool:
    """Return True if two runs were configured differently, their seeds apart."""
    x, y = (seedless(told.config.get(key), told.seed) for told in (a, b))
    return bool(x != y)
