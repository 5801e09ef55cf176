"""The latents of each token whose pre-activations are the largest, or above a threshold."""

from __future__ import annotations

from temporal_sae.kernels.dispatch import dispatched
from temporal_sae.kernels.selection import naive

select_topk = dispatched(naive.select_topk)
kth_largest = dispatched(naive.kth_largest)
list_above = dispatched(naive.list_above)

__all__ = ["kth_largest", "list_above", "select_topk"]
