"""The few operations that the tracker spends its time in, three times over.

`plain` says in torch what each operation means and runs anywhere; `cpu` does the same in numba on
all cores; `cuda` in Triton, without waiting for the device. Counts agree to the bit, and so do
averages, since every version rounds each step of the formula alike.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

# Integer products on tensor cores, from this compute capability on.
OLDEST_CARD = (8, 0)


@cache
def kernels_for(device: torch.device) -> ModuleType:
    """The module whose operations suit a device; `plain` for those that have none of their own."""
    version = device.type if device.type == "cpu" or _runs_triton(device) else "plain"
    return import_module(f"temporal_sae.kernels.{version}")


def _runs_triton(device: torch.device) -> bool:
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST_CARD


__all__ = ["kernels_for"]
