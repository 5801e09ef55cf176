"""A nested dictionary of tensors as a safetensors file, written piece by piece.

Tensors are stored under their path (`optimizer/exp_avg/0`), the rest in the header as JSON. The
bytes are those that `safetensors.torch.save` would make, of which a copy never exists: beside the
state it takes one block of memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

State = dict[str, Any]
BLOCK = 2**22  # bytes that are handled at once
# In the order in which safetensors stores them: wide ones first, so that all lie aligned.
DTYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class StateFile:
    """The content of a file, which is read from the tensors only when it is written.

    Args:
        state: a nested dictionary of tensors and JSON values.
        copied: take copies of the tensors now, so that the state may change meanwhile.
    """

    def __init__(self, state: State, *, copied: bool = False) -> None:
        tensors: dict[str, Tensor] = {}
        rest = _take_tensors(state, "", tensors)
        rank = {dtype: place for place, dtype in enumerate(DTYPES)}
        self.tensors = dict(
            sorted(tensors.items(), key=lambda item: (rank[item[1].dtype], item[0]))
        )
        self.header = _header(self.tensors, {"state": json.dumps(rest)})
        if copied:  # as they lie in memory
            self.tensors = {name: t.to("cpu", copy=True) for name, t in self.tensors.items()}

    def write(self, file: BinaryIO) -> str:
        """Write all of it; returns the SHA-256 of the file in hex."""
        digest = hashlib.sha256(self.header)
        file.write(self.header)
        for tensor in self.tensors.values():
            for block in _blocks(tensor):
                digest.update(block)
                file.write(block)
        return digest.hexdigest()


def bytes_of(state: State) -> int:
    """Return the bytes of all tensors of a nested dictionary."""
    tensors: dict[str, Tensor] = {}
    _take_tensors(state, "", tensors)
    return sum(tensor.nbytes for tensor in tensors.values())


def from_file(path: Path) -> State:
    """Return the nested dictionary that is in a file; its tensors on the CPU."""
    with safe_open(path, framework="pt") as file:
        state: State = json.loads((file.metadata() or {})["state"])
        if not isinstance(state, dict):
            raise TypeError("a state is a dictionary")
        for key in file.keys():  # noqa: SIM118 - safe_open is not a mapping
            *parents, last = key.split("/")
            inner = state
            for parent in parents:
                inner = inner[parent]
            inner[last] = file.get_tensor(key)
    return state


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Put the tensors of a nested dictionary into a flat one, returning what remains."""
    rest = {}
    for key, item in value.items():
        inner = f"{path}{key}"
        if isinstance(item, Tensor):
            tensors[inner] = item.detach()
        else:
            rest[key] = (
                _take_tensors(item, f"{inner}/", tensors) if isinstance(item, dict) else item
            )
    return rest


def _header(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Return what precedes the tensors: its length, and JSON that says where each of them is."""
    content: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        content[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin aligned
    return len(text).to_bytes(8, "little") + text


def _blocks(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor; a contiguous one of the CPU is not copied."""
    if not tensor.numel():
        return
    rows = tensor.reshape(-1) if tensor.is_contiguous() else tensor
    bytes_per_row = prod(rows.shape[1:]) * rows.element_size()
    for part in rows.split(max(1, BLOCK // bytes_per_row)):
        yield _as_rows(part).cpu().reshape(-1).view(torch.uint8).numpy().data


def _as_rows(part: Tensor) -> Tensor:
    """Return a part of a tensor in the order in which it is stored.

    An encoder lies in memory as its transpose. Torch is quick at turning a whole matrix over, and
    five times slower with a strided part of one, which is why that is copied as it is before.
    """
    if part.ndim == 2 and not part.is_contiguous():
        part = part.T.contiguous().T
    return part.contiguous()
