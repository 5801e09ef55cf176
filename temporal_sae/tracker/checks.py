"""Checks of the tracker's arguments; each message has the argument's name."""

from __future__ import annotations

from torch import Tensor


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.element_size() == 1)


def check_indices(indices: Tensor) -> None:
    """Raise ValueError unless `indices` is an integer matrix."""
    if not _is_integer(indices):
        raise ValueError(f"indices: has dtype {indices.dtype}, must be int16, int32 or int64")
    if indices.ndim != 2:
        raise ValueError(f"indices: has shape {tuple(indices.shape)}, must be [tokens, k]")


def check_pair(i: Tensor, j: Tensor, n_latents: int) -> None:
    """Raise ValueError unless i and j are integer tensors of one shape and device, in range.

    On CUDA the values are not looked at, since that would wait for the device.
    """
    for name, latents in (("i", i), ("j", j)):
        if not _is_integer(latents):
            raise ValueError(f"{name}: has dtype {latents.dtype}, must be int16, int32 or int64")
    if i.shape != j.shape:
        raise ValueError(f"j: has shape {tuple(j.shape)}, must be that of i, {tuple(i.shape)}")
    if i.device != j.device:
        raise ValueError(f"j: is on {j.device}, must be on the device of i, {i.device}")
    for name, latents in (("i", i), ("j", j)):
        if latents.device.type == "cpu" and latents.numel():
            low, high = int(latents.min()), int(latents.max())
            if low < 0 or high >= n_latents:
                wrong = low if low < 0 else high
                raise ValueError(f"{name}: found {wrong}, must be from 0 to {n_latents - 1}")
