"""The few operations that tracker, penalty and step spend their time in, three times over.

`plain` says in torch what each operation means and runs anywhere; `cpu` does the same in numba on
all cores; `cuda` in Triton, without waiting for the device. Counts agree to the bit, and so do
averages, since every version rounds each step of the formula alike. The operations of a sparse
training step are in `plain_step`, `cpu_step` and `cuda_step`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

from temporal_sae.kernels.cache_folder import ensure_cache

ensure_cache()

# Integer products on tensor cores, from this compute capability on.
OLDEST_CARD = (8, 0)


@cache
def kernels_for(device: torch.device) -> ModuleType:
    """The module whose operations suit a device; `plain` for those that have none of their own."""
    return import_module(f"temporal_sae.kernels.{_version(device)}")


@cache
def step_kernels_for(device: torch.device) -> ModuleType:
    """The same for the operations of a training step, which `plain_step` defines."""
    return import_module(f"temporal_sae.kernels.{_version(device)}_step")


def has_compiled_kernels(device: torch.device) -> bool:
    """Whether a device has a version of its own."""
    return _version(device) != "plain"


def _version(device: torch.device) -> str:
    return device.type if device.type == "cpu" or _runs_triton(device) else "plain"


def _runs_triton(device: torch.device) -> bool:
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST_CARD


__all__ = ["has_compiled_kernels", "kernels_for", "step_kernels_for"]
