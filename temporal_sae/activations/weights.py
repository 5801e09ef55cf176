"""Weights that stay in their files until the forward pass reaches them.

The files of a model are mapped into memory, which costs nothing until they are read. A part of the
model gets its weights on the device, and in the dtype that was asked for, when it first runs. The
layers behind the place that an SAE reads never do while it is trained, and an evaluation that needs
them finds them in the files. This is so for .safetensors; files of other kinds are read whole.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import sys
from collections.abc import Iterator
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CHUNK = 2**24  # elements that are converted at once
WORTH_IT = 2**20  # bytes of a weight that are given back
MAPS = "/proc/self/maps"  # Linux's list of what is mapped where
GIVE_BACK = 4  # MADV_DONTNEED


def stored_dtype(where: str, **options: Any) -> torch.dtype | None:
    """Return a dtype that holds all weights as the files have them, None if it is not known.

    A model that is loaded with it is mapped, where all weights have one.

    Args:
        where: folder, or name on the hub.
        options: of transformers' `cached_file`, such as the revision.
    """
    from safetensors import safe_open

    dtypes = set()
    for path in weight_files(where, **options):
        with safe_open(path, framework="pt") as file:
            dtypes |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    floats = [dtype for name in sorted(dtypes) if (dtype := STORED.get(name))]
    if not floats or any(name.startswith("F8") for name in dtypes):
        return None
    return reduce(torch.promote_types, floats)


def weight_files(where: str, **options: Any) -> Iterator[str]:
    """Yield the paths of the files in which transformers finds the weights."""
    from transformers.utils import cached_file

    optional = {"_raise_exceptions_for_missing_entries": False}
    if single := cached_file(where, SINGLE, **optional, **options):
        yield single
    elif index := cached_file(where, INDEX, **optional, **options):
        with open(index, encoding="utf-8") as file:
            names = sorted(set(json.load(file)["weight_map"].values()))
        for name in names:
            yield cached_file(where, name, **options)


class Placement:
    """Brings the weights of each part of a model to a device when it first runs.

    Args:
        model: as it was loaded, its weights in their files.
        layers: its layers, each of which is a part.
        device: where it runs.
        dtype: of its weights.
    """

    def __init__(
        self, model: nn.Module, layers: nn.ModuleList, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.device, self.dtype = device, dtype
        self.n_bytes = 0  # of the weights that have been reached
        stored = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
        for buffer in model.buffers():
            if id(buffer) not in stored:  # computed: small, and of the dtype that it needs
                buffer.data = buffer.to(device)
        self._placed: set[int] = set()
        for part, tensors in _parts_of(model, layers):
            self._await(part, [tensor for tensor in tensors if id(tensor) in stored])

    def _await(self, part: nn.Module, tensors: list[Tensor]) -> None:
        def reached(*_: Any) -> None:
            handle.remove()
            for tensor in tensors:
                self._place(tensor)

        handle = part.register_forward_pre_hook(reached)

    def _place(self, tensor: Tensor) -> None:
        if id(tensor) in self._placed:  # tied to another, as the head is to the embedding
            return
        self._placed.add(id(tensor))
        tensor.data = moved(tensor.data, self.device, self.dtype_of(tensor))
        if isinstance(tensor, nn.Parameter):
            self.n_bytes += tensor.nbytes

    def dtype_of(self, tensor: Tensor) -> torch.dtype:
        """Return the dtype that a weight has once it is reached."""
        return self.dtype if tensor.is_floating_point() else tensor.dtype


def _parts_of(module: nn.Module, layers: nn.ModuleList) -> Iterator[tuple[nn.Module, list[Tensor]]]:
    """Yield modules, and the weights that the forward pass needs once it reaches them.

    A layer needs all of its own. What stands beside the layers belongs to itself and to the module
    that has them, which may use it without calling it. Modules further out have theirs alone.
    """
    inner = list(module.children())
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        pass  # which is never called itself
    elif layers in inner:
        beside = [child for child in inner if child is not layers]
        yield module, [*_own(module), *(tensor for child in beside for tensor in _all(child))]
    elif layers in module.modules():
        yield module, _own(module)
    else:
        yield module, _all(module)
        return
    for child in inner:
        yield from _parts_of(child, layers)


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _all(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def moved(source: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a tensor on a device and in a dtype, and read its file in parts.

    What has been read of a mapped file counts as memory of the process until it is given back, so
    that the float32 embedding of a large vocabulary would be held twice.
    """
    if source.device == device and source.dtype == dtype:
        return source
    if not source.is_contiguous() or source.device.type != "cpu":
        return source.to(device, dtype)
    target = torch.empty(source.shape, device=device, dtype=dtype)
    mapped = source.nbytes >= WORTH_IT and _is_file(source.data_ptr())
    flat, filled = source.view(-1), target.view(-1)
    for start in range(0, flat.numel(), CHUNK):
        part = flat[start : start + CHUNK]
        filled[start : start + CHUNK].copy_(part)
        if mapped:
            _give_back(part)
    return target


def _is_file(address: int) -> bool:
    """Return whether a file is mapped at an address, and not memory that would be lost."""
    if not sys.platform.startswith("linux"):
        return False
    with open(MAPS, encoding="utf-8", errors="replace") as maps:
        for line in maps:
            span, _, _, _, inode, *_ = line.split()
            start, end = (int(bound, 16) for bound in span.split("-"))
            if start <= address < end:
                return inode != "0"
    return False


def _give_back(part: Tensor) -> None:
    """Let the pages of a mapped file go; who asks for them finds them in the file."""
    size = mmap.PAGESIZE
    start = -(-part.data_ptr() // size) * size
    end = (part.data_ptr() + part.nbytes) // size * size
    if end > start:
        advise = ctypes.CDLL(None).madvise  # advice: where it is not taken, nothing is lost
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), GIVE_BACK)
