"""Power and equivalence: the effects that a paired design can find, and those it can rule out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from temporal_sae.statistics.paired import PairedTest

ALPHA, POWER = 0.05, 0.8


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests of a mean difference against a margin.

    Attributes:
        margin: the largest difference that does not matter, in units of the metric.
        p_not_lower: of "the difference is at most -margin": non-inferiority where higher is
            better.
        p_not_higher: of "the difference is at least margin".
        p: the larger of both: below 0.05 the difference lies within ± margin, which is to say that
            its 90 % interval does.
    """

    margin: float
    p_not_lower: float
    p_not_higher: float

    @property
    def p(self) -> float:
        """The p value of equivalence."""
        return max(self.p_not_lower, self.p_not_higher)


def equivalence(test: PairedTest, margin: float) -> Equivalence:
    """Return two one-sided t tests (TOST; Schuirmann 1987) of a difference against ± margin.

    NaN where the test has no deviation to judge by: one pair, or differences that do not vary.

    Raises:
        ValueError: the margin is not positive and finite.
    """
    from scipy.special import stdtr  # slow to import

    if not 0 < margin < math.inf:
        raise ValueError(f"margin={margin}: must be a positive number")
    if not test.deviation > 0:
        return Equivalence(margin, math.nan, math.nan)
    error = test.deviation / math.sqrt(test.n)
    lower, higher = (float(stdtr(test.n - 1, -(margin + s * test.mean) / error)) for s in (1, -1))
    return Equivalence(margin, lower, higher)


def power(effect: float, n: int, alpha: float = ALPHA) -> float:
    """Return the chance that a two-sided paired t test finds a true effect.

    P(|T| > t) with T noncentral t of n - 1 degrees of freedom and noncentrality effect · √n
    (Cohen 1988, chapter 2): 0.83 for 1.2 deviations and 8 pairs.

    Args:
        effect: true mean of the differences over their true standard deviation.
        n: number of pairs, at least 2.
        alpha: level of the test.
    """
    from scipy.special import nctdtr, stdtrit  # slow to import

    critical, shift = float(stdtrit(n - 1, 1 - alpha / 2)), abs(effect) * math.sqrt(n)
    below = float(nctdtr(n - 1, shift, -critical))  # of the wrong sign; NaN where it underflows
    return 1 - float(nctdtr(n - 1, shift, critical)) + (0.0 if math.isnan(below) else below)


def detectable_difference(
    deviation: float, n: int, wanted: float = POWER, alpha: float = ALPHA
) -> float:
    """Return the smallest true difference that a paired test finds with the wanted power.

    Args:
        deviation: standard deviation of the differences; that of the pairs at hand, so the result
            is itself an estimate (for 8 pairs the 95 % interval of a deviation is 0.66 to 2.0 of
            it), or of pairs that were seeded anew beforehand.
        n: number of pairs.
        wanted: power, above `alpha` and below 1.
        alpha: level of the two-sided test.

    Returns:
        In units of the metric; NaN below two pairs or without a deviation.
    """
    from scipy.optimize import brentq  # slow to import

    if n < 2 or not deviation > 0:
        return math.nan
    most = 1.0
    while power(most, n, alpha) < wanted:
        most *= 2
    return deviation * float(brentq(lambda effect: power(effect, n, alpha) - wanted, 0.0, most))
