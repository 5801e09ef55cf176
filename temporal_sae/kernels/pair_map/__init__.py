"""Running averages of the pairs that occur: a map from pairs to float32."""

from __future__ import annotations

from temporal_sae.kernels.dispatch import dispatched
from temporal_sae.kernels.pair_map import naive

PairMap = dispatched(naive.PairMap)

__all__ = ["PairMap"]
