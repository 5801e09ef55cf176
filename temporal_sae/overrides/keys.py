"""The identity of a job by its overrides, and those that tell it from the others."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from hashlib import sha256

# Options that may differ between two calls of one sweep: they do not change what its jobs compute.
FREE_TO_CHANGE = (
    "overwrite",
    "debug",
    "device",
    "push_to_hub",
    "objective",
    "plugins",
    "trainer.resume",
    "trainer.checkpoint_every",
    "trainer.checkpoint_minutes",
    "trainer.keep_every",
    "data.skip_broken",
    "data.changed",
)


def identity(overrides: Sequence[str]) -> frozenset[str]:
    """Return the overrides that decide what a job computes; their order does not."""
    return frozenset(o for o in overrides if key_of(o) not in FREE_TO_CHANGE)


def key_of(override: str) -> str:
    """`tracker.window_size` of `++tracker.window_size=500`."""
    return override.split("=", 1)[0].lstrip("+~")


def varying_keys(jobs: Sequence[Sequence[str]]) -> set[str]:
    """Keys that do not have the same value in all jobs, from the overrides of each."""
    shared = set.intersection(*map(set, jobs)) if jobs else set()
    return {key_of(override) for job in jobs for override in job if override not in shared}


def what_varies(overrides: Sequence[str], varying: Collection[str]) -> str:
    """Return the overrides of a job that tell it from the others."""
    return " ".join(override for override in overrides if key_of(override) in varying)


def plan_digest(metric: str, jobs: Sequence[Sequence[str]]) -> str:
    """Return the SHA-256 of a primary metric and all jobs of a sweep, in whatever order.

    What stands in a plan is what decides about the results: options that are free to change are no
    part of it.
    """
    planned = sorted(sorted(identity(overrides)) for overrides in jobs)
    return sha256(json.dumps([metric, planned]).encode()).hexdigest()
