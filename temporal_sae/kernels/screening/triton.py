"""Screening for CUDA: the dense product."""

from temporal_sae.kernels.screening.naive import above, is_fast, largest, largest_of_all

__all__ = ["above", "is_fast", "largest", "largest_of_all"]
