"""The back ends of a group of kernels, and what their tensors may not do."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from temporal_sae import kernels

GROUPS = sorted(path.parent.name for path in Path(kernels.__file__).parent.glob("*/naive.py"))


def back_end(group: str, name: str) -> ModuleType:
    """A group's `naive`, `cpu` or `triton`; the last for tensors of the CPU, in the interpreter."""
    if name == "triton":
        pytest.importorskip("triton")
        if torch.cuda.is_available():
            pytest.skip("compiled kernels take no tensors of the CPU; tests/gpu tests them")
    return import_module(f"temporal_sae.kernels.{group}.{name}")


class NothingWaits(TorchDispatchMode):
    """Fails at what would make the host wait for a device, had the tensors been on one."""

    WAITING = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "bincount", "equal")

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function._schema.name.removeprefix("aten::")
        masks = [t for t in arguments[1] if t is not None] if name.startswith("index") else []
        by_mask = any(getattr(t, "dtype", None) == torch.bool for t in masks)
        assert not (name in self.WAITING or "unique" in name or by_mask), f"{name} waits"
        return function(*arguments, **(options or {}))


class NothingLarge(TorchDispatchMode):
    """Fails where a tensor of floats is made of more than some entries."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        floats = isinstance(made, Tensor) and made.is_floating_point()
        assert not floats or made.numel() <= self.most, f"{function} makes {made.numel()} entries"
        return made
