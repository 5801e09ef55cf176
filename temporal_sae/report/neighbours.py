"""Beside which runs a run is shown: finished ones of the same model in the same parent folder."""

from __future__ import annotations

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
    found = []
    for other in _newest_first(folder):
        if (neighbour := _read(other, config, _training(results))) is not None:
            found.append(neighbour)
    return sorted(found, key=lambda n: ORDER.index(n.lacks))[:MOST]


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


def _read(folder: Path, config: dict[str, Any], training: dict[str, Any]) -> Neighbour | None:
    record, results = _told(folder, _written(folder / "run.json"), _written(folder / RESULTS))
    if record is None:
        return None
    other = _training(results)
    place = ["lm_name", "submodule_name"]
    place += [] if training.get("lm_name") else ["activations"]
    if record["status"] != "finished" or any(other.get(k) != training.get(k) for k in place):
        return None
    alike = all(record["config"].get(key) == config.get(key) for key in COMMON)
    lacks = ""
    if alike and not other.get("ortho_weight") and training.get("ortho_weight"):
        lacks = PENALTY if results.get("cost", {}).get("tracker_bytes") else BOTH
    return Neighbour(printable(folder.name), results, lacks)


def _written(path: Path) -> int:
    """Return when a file was written, in nanoseconds; 0 if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


# Every job of a sweep looks at the same finished ones.
@lru_cache(maxsize=2 * LOOKED_AT)
def _told(folder: Path, *written: int) -> tuple[schemas.RunRecord | None, dict[str, Any]]:
    """Return record and results of a run whose files were last written then; None: unreadable."""
    try:
        record = schemas.read(folder / "run.json", schemas.RunRecord)
        return record, schemas.read_results(folder / RESULTS, schemas.TOLD)
    except (OSError, RunError):
        return None, {}


def _training(results: dict[str, Any]) -> dict[str, Any]:
    found = [v for name, v in results.items() if name.startswith("training results")]
    config: dict[str, Any] = found[0]["config"] if found else {}
    return config
