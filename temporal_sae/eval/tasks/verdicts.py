"""Rows that probes get right: accuracies, and intervals of all scores made of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from temporal_sae.eval.statistics import Interval, bootstrap_interval


class Verdicts:
    """Rows that each of several probes gets right, and accuracies, also of resampled rows.

    Args:
        right: bool [rows, probes], whether the probe is right about the row.
        tested: bool [rows, probes], whether the row is one that the probe is tested on.
    """

    def __init__(
        self, right: Bool[np.ndarray, "rows probes"], tested: Bool[np.ndarray, "rows probes"]
    ) -> None:
        self._right = (right & tested).astype(np.float64)
        self._tested = tested.astype(np.float64)

    def accuracies(
        self, counts: Float[np.ndarray, "resamples rows"] | None = None
    ) -> Float[np.ndarray, "resamples probes"]:
        """Share of right rows, [probes], or [resamples, probes] with a row counted so often."""
        if counts is None:
            return self._right.sum(0) / self._tested.sum(0)
        return (counts @ self._right) / np.maximum(counts @ self._tested, 1)


def row_counts(
    indices: Int[np.ndarray, "resamples rows"],
) -> Float[np.ndarray, "resamples rows"]:
    """Count the draws of each row in each resample."""
    n_resamples, n_rows = indices.shape
    places = indices + np.arange(n_resamples)[:, None] * n_rows
    counts = np.bincount(places.ravel(), minlength=indices.size)
    return counts.reshape(indices.shape).astype(np.float64)


def score_intervals(
    names: Sequence[str],
    scores_of: Callable[
        [Float[np.ndarray, "resamples rows"]], Float[np.ndarray, "resamples scores"]
    ],
    cells: Int[np.ndarray, " rows"],
    seed: int,
    n_resamples: int,
) -> dict[str, Interval]:
    """(low, high) of each score under resampling of test rows within their cells.

    Args:
        names: of the scores.
        scores_of: the scores for each resample, given how often each row is in it.
        cells: the cell of each row.
        seed, n_resamples: of the bootstrap; all scores see the same resamples.
    """

    # All columns of a piece of the resamples, which are the same for every column.
    pieces: list[Float[np.ndarray, "r scores"]] = []

    def interval(column: int) -> Interval:
        piece = itertools.count()

        def statistic(indices: Int[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
            n = next(piece)
            if n == len(pieces):
                pieces.append(scores_of(row_counts(indices)))
            return pieces[n][:, column]

        return bootstrap_interval(statistic, len(cells), seed, n_resamples, groups=cells)

    return {name: interval(column) for column, name in enumerate(names)}
