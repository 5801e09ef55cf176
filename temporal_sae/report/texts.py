"""Intervals of differences for other seeds and other texts, from what evaluations have resampled.

An evaluation draws its texts anew with a seed of its own, so two SAEs that were scored with the
same options have the same texts in every resample, and the difference of their scores there is that
of two SAEs on other texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from temporal_sae import schemas
from temporal_sae.errors import RunError
from temporal_sae.report.paired import Row, Run
from temporal_sae.statistics import Interval, interval_of_seeds_and_units


class Resampled:
    """Reads the resampled scores of runs, each file once."""

    def __init__(self) -> None:
        self._read: dict[Path, dict[str, schemas.ResampledScore]] = {}

    def interval(self, row: Row, pairs: Sequence[tuple[Run, Run]]) -> Interval | None:
        """Return the interval of a row's difference over seeds and texts.

        Args:
            row: a metric of both groups.
            pairs: their runs, in the order of its differences.

        Returns:
            None where the seeds have no interval, a run has not kept its resamples, or they are not
            of the same texts.
        """
        section, _, name = row.metric.rpartition(": ")
        found = [self._of(run, section).get(name) for pair in pairs for run in pair]
        scores = [score for score in found if score is not None]
        shapes = {(score["units"], len(score["values"])) for score in scores}
        if not row.test.deviation > 0 or len(scores) < len(found) or len(shapes) > 1:
            return None
        values = np.array([score["values"] for score in scores], dtype=np.float64)
        drawn = values[::2] - values[1::2]
        drawn = drawn[:, np.isfinite(drawn).all(0)]
        if drawn.shape[1] < 2:
            return None
        return interval_of_seeds_and_units(row.test.differences, drawn, scores[0]["units"])

    def _of(self, run: Run, section: str) -> dict[str, schemas.ResampledScore]:
        """Return the resampled scores of an evaluation by name, empty where there are none."""
        path = run.folder / "eval" / f"{section.replace('/', '_')}.json"
        if path not in self._read:
            try:
                self._read[path] = schemas.read(path, schemas.TaskRecord).get("resampled", {})
            except (OSError, RunError):
                self._read[path] = {}
        return self._read[path]
