"""Beside which runs a run is shown: finished ones of the same model in the same parent folder."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from temporal_sae import schemas
from temporal_sae.errors import RunError, printable

RESULTS = "results.json"
MOST = 3
BOTH, PENALTY = "tracker and penalty", "penalty"
ORDER = (BOTH, PENALTY, "")
LOOKED_AT = 50  # of the newest: a sweep may have thousands
# What a run and its baseline, the plain SAE, have in common.
COMMON = ("model", "data", "activations", "sae", "trainer", "seed")


class Told(NamedTuple):
    """A finished run by its files.

    Attributes:
        config: of the run.
        results: of the run.
    """

    config: dict[str, Any]
    results: dict[str, Any]

    @property
    def seed(self) -> int:
        """The seed of the run; -1 where its config has none."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else -1


def seedless(value: Any, seed: Any) -> Any:
    """Return a part of a config without the options that are the run's seed, as a penalty's is."""
    if not isinstance(value, dict):
        return value
    kept = ((k, v) for k, v in value.items() if k != "seed" or v != seed)
    return {k: seedless(v, seed) for k, v in kept}


class Neighbour(NamedTuple):
    """A finished run: its folder's name, its results, and which part of the method it lacks.

    `lacks` is `tracker and penalty` or `penalty` for a run that is else the same, or empty.
    """

    name: str
    results: dict[str, Any]
    lacks: str


def neighbours(folder: Path, results: dict[str, Any]) -> list[Neighbour]:
    """Return the baseline, if it is there, and the newest others; what cannot be read is left out.

    Args:
        folder: of the run.
        results: of the run.
    """
    try:
        config = schemas.read(folder / "run.json", schemas.RunRecord)["config"]
    except (OSError, RunError):
        return []
    own = Told(config, results)
    found = [_neighbour(path, other, own) for path, other in finished_beside(folder)]
    return sorted((n for n in found if n), key=lambda n: ORDER.index(n.lacks))[:MOST]


def finished_beside(folder: Path) -> Iterator[tuple[Path, Told]]:
    """Yield the newest finished runs beside a run; what cannot be read is left out."""
    for path in _newest_first(folder):
        told = _told(path, _written(path / "run.json"), _written(path / RESULTS))
        if told is not None:
            yield path, told


def lack_of(other: dict[str, Any], own: dict[str, Any]) -> str:
    """Return the part of the method that one of two runs lacks, by its results; mostly none."""
    if _training(other).get("ortho_weight") or not _training(own).get("ortho_weight"):
        return ""
    return PENALTY if other.get("cost", {}).get("tracker_bytes") else BOTH


def _newest_first(folder: Path) -> list[Path]:
    own = folder.resolve()
    times = []
    try:
        for path in own.parent.iterdir():
            if path != own and (path / RESULTS).is_file():
                times.append((_written(path / RESULTS), path))
    except OSError:
        return []
    return [path for _, path in sorted(times, reverse=True)[:LOOKED_AT]]


def _neighbour(folder: Path, other: Told, own: Told) -> Neighbour | None:
    theirs, ours = _training(other.results), _training(own.results)
    place = ["lm_name", "submodule_name"]
    place += [] if ours.get("lm_name") else ["activations"]
    if any(theirs.get(k) != ours.get(k) for k in place):
        return None
    alike = all(other.config.get(key) == own.config.get(key) for key in COMMON)
    lacks = lack_of(other.results, own.results) if alike else ""
    return Neighbour(printable(folder.name), other.results, lacks)


def _written(path: Path) -> int:
    """Return when a file was written, in nanoseconds; 0 if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


# Every job of a sweep looks at the same finished ones.
@lru_cache(maxsize=2 * LOOKED_AT)
def _told(folder: Path, *written: int) -> Told | None:
    """Return a run whose files were last written then; None if it is not finished or readable."""
    try:
        record = schemas.read(folder / "run.json", schemas.RunRecord)
        if record["status"] != "finished":
            return None
        return Told(record["config"], schemas.read_results(folder / RESULTS, schemas.TOLD))
    except (OSError, RunError):
        return None


def _training(results: dict[str, Any]) -> dict[str, Any]:
    found = [v for name, v in results.items() if name.startswith("training results")]
    config: dict[str, Any] = found[0]["config"] if found else {}
    return config
