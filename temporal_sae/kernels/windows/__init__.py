"""Windows of tokens: which latents are active in each, and how often any two are together."""

from __future__ import annotations

from temporal_sae.kernels.dispatch import dispatched
from temporal_sae.kernels.windows import naive
from temporal_sae.kernels.windows.naive import WindowIndex

sorted_rows = dispatched(naive.sorted_rows)
index_window = dispatched(naive.index_window)
pair_counts = dispatched(naive.pair_counts)
token_counts = dispatched(naive.token_counts)
count_rows = dispatched(naive.count_rows)
distinct_pairs = dispatched(naive.distinct_pairs)
count_histogram = dispatched(naive.count_histogram)

__all__ = [
    "WindowIndex",
    "count_histogram",
    "count_rows",
    "distinct_pairs",
    "index_window",
    "pair_counts",
    "sorted_rows",
    "token_counts",
]
