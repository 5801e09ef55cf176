"""The record of what a run reads, in run.json and, file by file, in text.json.

It is compared on resuming: a checkpoint says how far a run has come, as a number of documents or
rows. With other files the same number is another place, and what is held out may have been trained
on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from temporal_sae import schemas
from temporal_sae.activations import ActivationSource
from temporal_sae.activations.model_files import hash_of_weights
from temporal_sae.data.sources import counted, in_words
from temporal_sae.errors import RunError, printable
from temporal_sae.files import write_atomically

log = logging.getLogger(__name__)

LISTING = "text.json"
WEIGHTS = "weights"  # of the language model


def source_section(
    source: ActivationSource,
    config: Mapping[str, Any],
    earlier: dict[str, Any] | None,
    changes: str | None,
) -> dict[str, Any]:
    """Return the section of run.json on the data.

    Args:
        source: as it is now.
        config: of the run.
        earlier: the record of the run that is continued, if one is.
        changes: how the source differs from what that run has begun with.
    """
    accepted = (earlier or {}).get("data", {}).get("accepted_changes", [])
    return {
        **source.describe(),
        WEIGHTS: weights_of(config),
        "left_out": source.left_out(),
        "accepted_changes": [*accepted, *([changes] if changes else [])],
    }


def with_what_was_left_out(record: dict[str, Any], source: ActivationSource) -> dict[str, Any]:
    """Return a record that also tells of what has been left out while it was read."""
    return {**record, "data": {**record["data"], "left_out": source.left_out()}}


def say_what_was_left_out(record: dict[str, Any], source: ActivationSource) -> None:
    """Tell of what was left out while the data were read, which nobody knew when the run began."""
    before, now = record["data"]["left_out"], source.left_out()
    if new := {reason: about for reason, about in now.items() if about != before.get(reason)}:
        log.info("left out of the data while they were read: %s", in_words(new))


def write_listing(folder: Path, source: ActivationSource) -> None:
    """Note every file, so that a change can be told by name."""
    if listing := source.listing():
        write_atomically(folder / LISTING, json.dumps(listing) + "\n")


def weights_of(config: Mapping[str, Any]) -> str | None:
    """Return a hash of the language model's weights; None if there is none, or none here yet."""
    model = config.get("model")
    if not isinstance(model, Mapping) or not model.get("name"):
        return None
    return hash_of_weights(model["name"], model.get("revision"))


def changes_of(
    source: ActivationSource, config: Mapping[str, Any], record: dict[str, Any], folder: Path
) -> str | None:
    """Return in words how a source differs from that with which the run in `folder` has begun.

    None: not at all, or its record does not tell, as that of an earlier version on weights.
    """
    before, now = record.get("data"), source.describe()
    if before and before.get(WEIGHTS) and (weights := weights_of(config)):
        now[WEIGHTS] = weights
    if not before or all(before.get(key) == value for key, value in now.items()):
        return None
    try:
        listed = schemas.read(folder / LISTING, dict[str, Any])
    except (FileNotFoundError, RunError):
        listed = {}
    return (listed and changed_files(listed, source.listing())) or ", ".join(
        f"{key}: {before.get(key)} → {value}"
        for key, value in now.items()
        if before.get(key) != value
    )


def changed_files(before: dict[str, Any], now: dict[str, Any]) -> str:
    """`2 file(s) added (such as a.txt), 1 file(s) changed (b.txt)`; empty where nothing is."""
    kinds = {
        "added": now.keys() - before.keys(),
        "removed": before.keys() - now.keys(),
        "changed": {name for name in now.keys() & before.keys() if now[name] != before[name]},
    }
    return ", ".join(
        counted(len(names), f"file(s) {kind}", printable(min(names)))
        for kind, names in kinds.items()
        if names
    )
