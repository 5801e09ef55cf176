"""Statistics of experiments with few seeds; pure functions of numbers, without files or printing.

Differences are paired over seeds: two runs of equal seed share data, order and initial weights, so
what they have in common falls out of a_i - b_i. See docs/reports.md for how they are used.
"""

from temporal_sae.statistics.matched import common_range, value_at
from temporal_sae.statistics.multiple import benjamini_hochberg, holm
from temporal_sae.statistics.paired import PairedTest, paired_test
from temporal_sae.statistics.power import Equivalence, detectable_difference, equivalence, power
from temporal_sae.statistics.seeds_and_units import Interval, interval_of_seeds_and_units

__all__ = [
    "Equivalence",
    "Interval",
    "PairedTest",
    "benjamini_hochberg",
    "common_range",
    "detectable_difference",
    "equivalence",
    "holm",
    "interval_of_seeds_and_units",
    "paired_test",
    "power",
    "value_at",
]
