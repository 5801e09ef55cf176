"""The rule by which a difference may be called an improvement, for every table and page.

The primary metric, if one was fixed before the runs, is a single test. All other metrics are a
family and are corrected together (Holm), over everything that one table compares. With several arms
the primary metric is tested once for each, and these tests are a family of their own. So at most
1 table in 20 calls anything an improvement on the primary metric, and at most 1 in 20 on any other,
where nothing differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from temporal_sae.metrics import better_when_higher
from temporal_sae.report.paired import Row
from temporal_sae.statistics import PairedTest, benjamini_hochberg, holm

Adjustment = Callable[[Sequence[float]], list[float]]
ALPHA = 0.05
TOO_FEW, SAME, UNCLEAR = "too few pairs", "no spread, no interval", "no clear difference"
IMPROVEMENT, WORSE, HIGHER, LOWER = "improvement", "worse", "higher", "lower"
CLEAR = (IMPROVEMENT, WORSE, HIGHER, LOWER)


@dataclass(frozen=True)
class Judged:
    """A metric of an arm, compared and judged among all that stand beside it.

    Attributes:
        arm: that is compared with the baseline; empty where there is one alone.
        row: the metric, and its paired test.
        primary: True for the metric that was fixed beforehand.
        holm: p value, corrected within its family.
        bh: likewise, for the share of false findings (Benjamini and Hochberg).
        verdict: one of CLEAR only where `holm` is below ALPHA; `improvement` and `worse` where it
            is known which side is better; else why there is none.
    """

    arm: str
    row: Row
    primary: bool
    holm: float
    bh: float
    verdict: str

    @property
    def clear(self) -> bool:
        """True where there is a difference by the rule."""
        return self.verdict in CLEAR


def by_rule(arms: Mapping[str, Sequence[Row]], primary: str | None) -> list[Judged]:
    """Return all rows of all arms with their verdicts, arm after arm.

    Args:
        arms: the rows of each.
        primary: name of the metric that was fixed beforehand; None without one.
    """
    rows = [(arm, row) for arm, own in arms.items() for row in own]
    firsts = {(arm, first_called(primary, own)) for arm, own in arms.items()} if primary else set()
    is_primary = [(arm, row.metric) in firsts for arm, row in rows]
    p = [row.test.p for _, row in rows]
    corrected, shares = (by_family(p, is_primary, adjust) for adjust in (holm, benjamini_hochberg))
    return [
        Judged(arm, row, chosen, h, b, verdict_of(row, h))
        for (arm, row), chosen, h, b in zip(rows, is_primary, corrected, shares, strict=True)
    ]


def correction(rows: Sequence[Judged]) -> str:
    """Return how many differences are clear alone and after correction, and how many by chance."""
    tested = [found for found in rows if not found.primary and not math.isnan(found.row.test.p)]
    if not tested:
        if any(found.primary and not math.isnan(found.row.test.p) for found in rows):
            return "No other metric has an interval."
        return "No metric has an interval: that takes at least two pairs whose differences vary."
    alone = sum(found.row.test.p < ALPHA for found in tested)
    shares = sum(found.bh < ALPHA for found in tested)
    clear = sum(found.clear for found in tested)
    return (
        f"Of {len(tested)} differences in metrics that are not primary {alone} have p < {ALPHA} by "
        f"themselves, where {ALPHA * len(tested):.1f} would by chance if nothing differed; {clear} "
        f"by Holm's correction, {shares} by Benjamini and Hochberg's. Verdicts are Holm's."
    )


def first_called(name: str | None, rows: Sequence[Row]) -> str | None:
    """Return the metric of that name with its section; the first, if two evaluations have it."""
    return next((row.metric for row in rows if row.name == name), None)


def by_family(p: Sequence[float], is_primary: Sequence[bool], adjust: Adjustment) -> list[float]:
    """Return p values adjusted within the primary ones, and within the others."""
    found = [math.nan] * len(p)
    for family in (True, False):
        places = [n for n, own in enumerate(is_primary) if own == family]
        for place, value in zip(places, adjust([p[n] for n in places]), strict=True):
            found[place] = value
    return found


def verdict_of(row: Row, corrected: float) -> str:
    """Return in words what the corrected p value of a row supports."""
    test: PairedTest = row.test
    if test.n < 2:
        return TOO_FEW
    if math.isnan(corrected):
        return SAME
    if corrected >= ALPHA:
        return UNCLEAR
    higher_is_better = better_when_higher(row.name)
    if higher_is_better is None:
        return HIGHER if test.mean > 0 else LOWER
    return IMPROVEMENT if (test.mean > 0) == higher_is_better else WORSE
