"""The few operations that the tracker spends its time in, three times over.

`plain` says in torch what each operation means and runs anywhere; `cpu` does the same in numba on
all cores; `cuda` in Triton, without waiting for the device. Counts agree to the bit, and so do
averages, since every version rounds each step of the formula alike.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch

BY_DEVICE = {"cpu": "cpu", "cuda": "cuda"}


def kernels_for(device: torch.device) -> ModuleType:
    """The module whose operations suit a device; `plain` for those that have none of their own."""
    return import_module(f"temporal_sae.kernels.{BY_DEVICE.get(device.type, 'plain')}")


__all__ = ["kernels_for"]
