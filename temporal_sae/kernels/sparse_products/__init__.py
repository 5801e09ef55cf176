"""Products with the sparse matrix of activations [B, F], from its few entries per row."""

from __future__ import annotations

from temporal_sae.kernels.dispatch import dispatched
from temporal_sae.kernels.sparse_products import naive
from temporal_sae.kernels.sparse_products.naive import ByLatent

list_by_latent = dispatched(naive.list_by_latent)
decode_gradients = dispatched(naive.decode_gradients)
decode_rows = dispatched(naive.decode_rows)
dot_rows = dispatched(naive.dot_rows)
sum_by_latent = dispatched(naive.sum_by_latent)

__all__ = [
    "ByLatent",
    "decode_gradients",
    "decode_rows",
    "dot_rows",
    "list_by_latent",
    "sum_by_latent",
]
