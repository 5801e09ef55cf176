"""Choose the version of an operation by the device that its first argument is on.

A group of operations is a folder with three files that define the same names: `naive` in plain
torch, `cpu` in numba, `triton` for CUDA. Its `__init__` lists the operations, each once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

# Integer products on tensor cores, from this compute capability on.
OLDEST_CARD = (8, 0)


def has_compiled_kernels(device: torch.device) -> bool:
    """Return whether operations on this device run as more than plain torch."""
    return back_end(device) != "naive"


def back_end(device: torch.device) -> str:
    """Return `cpu`, `triton`, or `naive` for a device that has no kernels of its own."""
    if device.type == "cpu":
        return "cpu"
    return "triton" if _runs_triton(device) else "naive"


def _runs_triton(device: torch.device) -> bool:
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST_CARD


def dispatched(naive: Callable[P, R]) -> Callable[P, R]:
    """Return an operation that runs as the back end of its first argument's device defines it.

    Args:
        naive: the version in plain torch. Its first argument is a tensor, a tuple of tensors, or a
            device.
    """

    @wraps(naive, updated=())
    def operation(*arguments: P.args, **options: P.kwargs) -> R:
        return _version(naive, _device_of(arguments[0]))(*arguments, **options)

    return operation


@cache  # and so a back end, whose compiler takes a second to import, is imported when first needed
def _version(naive: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    group = naive.__module__.removesuffix(".naive")
    return getattr(import_module(f"{group}.{back_end(device)}"), naive.__name__)


def _device_of(argument: Any) -> torch.device:
    if isinstance(argument, torch.device):
        return argument
    return (argument if isinstance(argument, Tensor) else argument[0]).device
