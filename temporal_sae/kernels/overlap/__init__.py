"""Weighted overlaps of decoder rows or of activations, and their gradients."""

from __future__ import annotations

from temporal_sae.kernels.dispatch import dispatched
from temporal_sae.kernels.overlap import naive
from temporal_sae.kernels.overlap.naive import EPSILON, overlap_and_slope

overlap_slopes = dispatched(naive.overlap_slopes)
add_rows = dispatched(naive.add_rows)
activation_rows = dispatched(naive.activation_rows)

__all__ = ["EPSILON", "activation_rows", "add_rows", "overlap_and_slope", "overlap_slopes"]
