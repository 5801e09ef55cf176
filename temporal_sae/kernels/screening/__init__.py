"""The largest pre-activations of a batch, without the matrix of all of them."""

from __future__ import annotations

from temporal_sae.kernels.dispatch import dispatched
from temporal_sae.kernels.screening import naive
from temporal_sae.kernels.screening.naive import Found

largest = dispatched(naive.largest)
largest_of_all = dispatched(naive.largest_of_all)
above = dispatched(naive.above)
is_fast = dispatched(naive.is_fast)

__all__ = ["Found", "above", "is_fast", "largest", "largest_of_all"]
