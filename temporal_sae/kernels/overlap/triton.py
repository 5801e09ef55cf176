"""Overlaps for CUDA: torch's own kernels, which need no help and do not wait."""

from temporal_sae.kernels.overlap.naive import activation_rows, add_rows, overlap_slopes

__all__ = ["activation_rows", "add_rows", "overlap_slopes"]
