"""Options that there were not yet when a run was made."""

from __future__ import annotations

import inspect
from typing import Any

from temporal_sae.experiment.construct import TARGET, find_class


def with_new_options(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return an earlier run's config with the options that have come since, at their defaults.

    An earlier version did what the default of a later option does. Only classes that the new config
    names are looked at.

    Args:
        old: of the run.
        new: as it is composed today.
    """
    return _filled(old, new, old.get("seed"))


def _filled(old: dict[str, Any], new: dict[str, Any], seed: Any) -> dict[str, Any]:
    same_class = TARGET in new and old.get(TARGET) == new[TARGET]
    known = defaults_of(str(new[TARGET])) if same_class else {}
    if "seed" in known:  # conf/ gives the run's own to all that draw
        known["seed"] = seed
    filled = dict(old)
    for key, value in new.items():
        if key not in old and key in known:
            filled[key] = known[key]
        elif isinstance(value, dict) and isinstance(old.get(key), dict):
            filled[key] = _filled(old[key], value, seed)
    return filled


def defaults_of(name: str) -> dict[str, Any]:
    """Return the default of each option of a class that has one."""
    parameters = inspect.signature(find_class(TARGET, name)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
