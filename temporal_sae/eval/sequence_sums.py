"""Sums over the tokens of each sequence, for totals and for how much sequences differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from temporal_sae.eval.statistics import bootstrap_interval

Sums = dict[str, NDArray[np.float64]]


class SequenceSums:
    """Named sums in float64, one number per sequence, kept on the device until asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {}

    def add(self, **by_sequence: Float[Tensor, " sequences"]) -> None:
        """Take in the sequences of a batch."""
        for name, values in by_sequence.items():
            self._sums.setdefault(name, []).append(values.double())

    def totals(self) -> dict[str, float]:
        """Return the sum over all sequences."""
        return {name: float(values.sum()) for name, values in self._sequences().items()}

    def interval(
        self, seed: int, score: Callable[[Sums], NDArray[np.float64]]
    ) -> tuple[float, float]:
        """95 % bootstrap interval, over sequences, of a score that is made of sums.

        Args:
            seed: fixes the resamples.
            score: from the sums of R resamples, each [R], to its value in each, [R].
        """
        sequences = self._sequences()
        n_sequences = len(next(iter(sequences.values())))

        def of_resamples(indices: NDArray[np.int64]) -> NDArray[np.float64]:
            return score({name: values[indices].sum(1) for name, values in sequences.items()})

        return bootstrap_interval(of_resamples, n_sequences, seed)

    def _sequences(self) -> Sums:
        return {name: torch.cat(parts).cpu().numpy() for name, parts in self._sums.items()}


def nonzero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values, NaN where they are zero: a ratio with them is then not defined."""
    return np.where(values == 0, np.nan, values)
