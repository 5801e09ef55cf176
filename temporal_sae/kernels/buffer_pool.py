"""Keep the memory of gradients that are done with for the next ones.

On the CPU a tensor of this size is new memory from the system each time, and touching its pages for
the first time costs more than computing what goes into them.
"""

from __future__ import annotations

import torch
from torch import Tensor

KEPT = 2  # of one shape: the gradients of encoder and decoder
LEAST_BYTES = 2**22

_buffers: dict[tuple[int, ...], list[Tensor]] = {}


def empty(*shape: int) -> Tensor:
    """Return a float32 tensor on the CPU with anything in it."""
    try:
        return _buffers[shape].pop()
    except LookupError:  # not asked before: another thread may take the last one in between
        return torch.empty(shape)


def release(tensor: Tensor) -> None:
    """Take a tensor that nobody uses any more, contiguous or the transpose of such."""
    tensor = tensor.T if tensor.ndim == 2 and not tensor.is_contiguous() else tensor
    kept = _buffers.setdefault(tuple(tensor.shape), [])
    worth_it = tensor.nbytes >= LEAST_BYTES and tensor.dtype == torch.float32
    if worth_it and tensor.device.type == "cpu" and tensor.is_contiguous() and len(kept) < KEPT:
        kept.append(tensor.detach())  # no view, which autograd forbids a Function to return


def clear() -> None:
    """Give all kept memory back to the system."""
    _buffers.clear()
