"""Cells of the page's tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from temporal_sae.study.analysis import Compared, mean


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation of what was measured."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return "–"
    deviation = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    return f"{mean(known):.3f}{deviation}"


def row(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def plainly(metric: str) -> str:
    """Return the name of a metric in words."""
    return metric.partition(".")[2].replace("_", " ")


def seeds(numbers: Sequence[int]) -> str:
    """Return seeds in few characters."""
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 2 else ", ".join(map(str, numbers))


def difference(found: Compared) -> str:
    """Return a mean difference with its interval."""
    return f"{found.test.mean:+.3f} [{found.test.low:+.3f}, {found.test.high:+.3f}]"
