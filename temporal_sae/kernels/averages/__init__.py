"""Running averages of the rates of all pairs, as one packed triangle."""

from __future__ import annotations

from temporal_sae.kernels.averages import naive
from temporal_sae.kernels.averages.naive import CONST, PAIR, UNION, AlphaStep, pairs_before
from temporal_sae.kernels.dispatch import dispatched

close_dense = dispatched(naive.close_dense)
lookup_dense = dispatched(naive.lookup_dense)

__all__ = ["CONST", "PAIR", "UNION", "AlphaStep", "close_dense", "lookup_dense", "pairs_before"]
