"""The primary metric of a sweep, fixed before its first job begins.

`sweep.json` keeps its name, the time, and the hash of what was planned: the metric, and every job
with its options and seed. Comparisons call it primary only as long as the sweep is that plan.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.metrics import fitting, is_compared
from temporal_sae.overrides.keys import plan_digest
from temporal_sae.report.primary import primary_of, sentence_of
from temporal_sae.sweep.plan import SweepFolder

KEY = "hydra.sweeper.primary"


def checked_metric(name: Any) -> str:
    """Return the name of a metric by which runs are compared.

    Raises:
        InvalidOption: it is none.
    """
    if not isinstance(name, str) or "*" in name or not fitting(name) or not is_compared(name):
        raise InvalidOption(KEY, name, "a metric of an evaluation, such as ce_loss_score")
    return name


def fix_primary(folder: SweepFolder, metric: str) -> str:
    """Note the primary metric of a sweep whose jobs are planned; returns what was fixed, in words.

    Raises:
        RunError: jobs have begun, and it was not fixed before.
    """
    jobs = folder.jobs()
    begun = sum((folder.path / job.folder).exists() for job in jobs)
    before = primary_of(folder.path)
    if begun and (before is None or before.metric != metric):
        had = f"{before.metric} was" if before else "none was"
        raise RunError(
            f"{KEY}={metric}: must be fixed before the first job begins; {begun} of {len(jobs)} "
            f"have begun in {folder.path}, and {had} fixed"
        )
    if not begun and not (before and before.metric == metric and before.kept):
        fixed = datetime.now(UTC).isoformat(timespec="seconds")
        digest = plan_digest(metric, [job.overrides for job in jobs])
        folder.note("primary", {"metric": metric, "fixed": fixed, "sha256": digest})
    return sentence_of(primary_of(folder.path))
