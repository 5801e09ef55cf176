"""Plain totals of pairs: in how many tokens two are together, and the squares of their windows."""

from __future__ import annotations

from temporal_sae.kernels.dispatch import dispatched
from temporal_sae.kernels.totals import naive

add_dense = dispatched(naive.add_dense)
TotalsMap = dispatched(naive.TotalsMap)

__all__ = ["TotalsMap", "add_dense"]
