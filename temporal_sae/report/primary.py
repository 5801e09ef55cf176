"""The primary metric of a sweep: what was fixed before its first job began, and if it was kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from temporal_sae import schemas
from temporal_sae.errors import RunError, printable
from temporal_sae.overrides.keys import plan_digest

SWEEP = "sweep.json"
NOTHING_FIXED = (
    "No primary metric was fixed before these runs (`hydra.sweeper.primary=METRIC`), so none is "
    "exempt from the correction."
)


class Primary(NamedTuple):
    """A primary metric, and what was planned with it.

    Attributes:
        metric: its name.
        fixed: when it was fixed, in ISO form.
        sha256: of the metric and all jobs with their seeds, as planned then.
        kept: whether the jobs of the sweep are those.
    """

    metric: str
    fixed: str
    sha256: str
    kept: bool

    @property
    def counts(self) -> str | None:
        """The metric that may be called primary; None if the plan was not kept."""
        return self.metric if self.kept else None

    @property
    def sentence(self) -> str:
        """The facts in words."""
        told = f"{printable(self.metric)} was fixed as the primary metric on {self.fixed}, before "
        told += f"the first job began (plan {self.sha256[:12]})"
        if self.kept:
            return f"{told}."
        return (
            f"{told}, but the jobs are no longer those of that plan: it is not called primary, and "
            "is corrected like the others."
        )


def primary_of(sweep: Path) -> Primary | None:
    """Return the primary metric of a sweep; None without a sweep, or where none was fixed."""
    try:
        note = schemas.read(sweep / SWEEP, schemas.SweepNote)
    except (OSError, RunError):
        return None
    fixed = note.get("primary")
    if fixed is None:
        return None
    now = plan_digest(fixed["metric"], [job["overrides"] for job in note["jobs"]])
    return Primary(
        fixed["metric"],
        printable(fixed["fixed"]),
        printable(fixed["sha256"]),
        now == fixed["sha256"],
    )


def primary_of_runs(folders: Sequence[Path]) -> Primary | None:
    """Return the primary metric of the sweep that runs are jobs of; None without one."""
    parents = {folder.resolve().parent for folder in folders}
    return primary_of(parents.pop()) if len(parents) == 1 else None


def sentence_of(primary: Primary | None) -> str:
    """Return what can be said of the primary metric."""
    return primary.sentence if primary else NOTHING_FIXED
