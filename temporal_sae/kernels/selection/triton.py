"""Choosing latents for CUDA: torch's own kernels; only `list_above` waits for the device."""

from temporal_sae.kernels.selection.naive import kth_largest, list_above, select_topk

__all__ = ["kth_largest", "list_above", "select_topk"]
