"""The processes of one run: who is first, and what they tell each other.

Without a process group every function here is what it is for one process, at no cost; so whatever
works with them has no branches of its own. All processes have to call the same ones in the same
order. Small facts travel through a gloo group of their own, so that nothing waits for a GPU, and
with a patience of days, since some may wait while the first one evaluates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from temporal_sae.errors import InvalidOption, RunError

PATIENCE = timedelta(days=30)
REASON = "temporal_sae: why a process has ended"

_control: dict[str, Any] = {}
_alone = 0


class ProcessLost(RunError):
    """An exchange has failed, most likely because another process has ended."""


def n_processes() -> int:
    """Processes of the run; 1 without a group, and inside `alone`."""
    if _alone or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


def rank() -> int:
    """This process's number among them, 0 for the first."""
    return dist.get_rank() if n_processes() > 1 else 0


def is_first() -> bool:
    """Whether this is the one that writes files and talks to people."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def are_announced() -> bool:
    """Whether the environment tells of several processes, as torchrun's or a SLURM step's does.

    Without a step, as in a batch script, SLURM's variables speak of processes that do not exist.
    """
    by_torchrun = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1
    return by_torchrun or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


@contextmanager
def alone() -> Iterator[None]:
    """While open this process works as if there were no others."""
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


def control_group() -> Any:
    """A gloo group beside the default one, made at its first use."""
    default = dist.group.WORLD
    if _control.get("default") is not default:
        _control["group"] = dist.new_group(backend="gloo", timeout=PATIENCE)
        _control["default"] = default
    return _control["group"]


def _group_for(tensor: Tensor) -> Any:
    """The group through which a tensor can travel: the default one may know GPUs only."""
    if tensor.device.type == "cpu" and "gloo" not in dist.get_backend():
        return control_group()
    return dist.group.WORLD


@contextmanager
def exchange() -> Iterator[None]:
    """Errors of torch.distributed as one sentence, with the other's reason where it told one."""
    try:
        yield
    except RuntimeError as error:
        reason = told_reason()
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise ProcessLost(
            f"another process of the run has failed: {reason}"
            if reason
            else f"another process of the run has ended ({first_line})"
        ) from error


def gather(tensor: Tensor, fill: int | float = 0, *, alike: bool = False) -> list[Tensor]:
    """The tensors of all processes, of one dtype and number of dimensions, of whatever shapes.

    Args:
        tensor: this process's.
        fill: travels where another one's is larger.
        alike: all are known to have the same shape, which saves an exchange.

    Raises:
        ValueError: another process has called `refuse` instead.
    """
    if n_processes() == 1:
        return [tensor]
    shapes = [tuple(tensor.shape)] * n_processes() if alike else shapes_of_all(tensor.shape)
    if any(size < 0 for shape in shapes for size in shape):
        raise ValueError("refused by another process")
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    padded = tensor.new_full(largest, fill)
    padded[tuple(slice(size) for size in tensor.shape)] = tensor
    received = [torch.empty_like(padded) for _ in shapes]
    # As bytes: gloo does not know every dtype.
    parts, own = [part.view(torch.uint8) for part in received], padded.view(torch.uint8)
    with exchange():
        dist.all_gather(parts, own, group=_group_for(own))
    pairs = zip(received, shapes, strict=True)
    return [part[tuple(slice(size) for size in shape)] for part, shape in pairs]


def shapes_of_all(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes that every process tells."""
    own = torch.tensor(shape)
    shapes = [torch.empty_like(own) for _ in range(n_processes())]
    with exchange():
        dist.all_gather(shapes, own, group=control_group())
    return [tuple(shape.tolist()) for shape in shapes]


def refuse(n_dimensions: int) -> None:
    """Let those that wait in `gather` raise too, where this one has nothing to bring."""
    if n_processes() > 1:
        shapes_of_all((-1,) * n_dimensions)


def gather_to_first(tensor: Tensor) -> list[Tensor]:
    """The vectors of all processes on the CPU of the first; the others get their own back."""
    if n_processes() == 1:
        return [tensor]
    own, group = tensor.detach().cpu().contiguous(), control_group()
    shapes = shapes_of_all(own.shape)
    received = [torch.empty(shape, dtype=own.dtype) for shape in shapes[1:]] if is_first() else []
    with exchange():
        if not is_first() and own.numel():
            dist.send(own.view(torch.uint8), 0, group=group)
        for number, part in enumerate(received, 1):
            if part.numel():
                dist.recv(part.view(torch.uint8), number, group=group)
    return [own, *received]


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, which may have laid their parts out in different ways."""
    if n_processes() > 1:
        tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
        with exchange():
            dist.all_reduce(tensor, group=_group_for(tensor))
    return tensor


def mean(tensor: Tensor) -> Tensor:
    """The mean over all processes."""
    return total(tensor) / n_processes() if n_processes() > 1 else tensor


def mean_(tensor: Tensor) -> Tensor:
    """The mean over all processes, in the memory of a contiguous tensor."""
    if n_processes() > 1:
        with exchange():
            dist.all_reduce(tensor, group=_group_for(tensor))
        tensor /= n_processes()
    return tensor


def any_of(flags: Tensor) -> Tensor:
    """Where a flag is set in some process."""
    return total(flags.int()) > 0 if n_processes() > 1 else flags


def least_of(tensor: Tensor) -> Tensor:
    """The least over all processes."""
    if n_processes() > 1:
        tensor = tensor.detach().clone()
        with exchange():
            dist.all_reduce(tensor, dist.ReduceOp.MIN, group=_group_for(tensor))
    return tensor


def largest_of(*numbers: int) -> tuple[int, ...]:
    """The largest over all processes of each number."""
    if n_processes() == 1:
        return numbers
    largest = torch.tensor(numbers)
    with exchange():
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=control_group())
    return tuple(largest.tolist())


def same_as_first_(tensor: Tensor) -> None:
    """Take over the first process's values, whatever the layout."""
    if n_processes() > 1:
        values = tensor.detach().contiguous()
        with exchange():
            dist.broadcast(values, 0, group=_group_for(values))
        tensor.detach().copy_(values)


def own_part(rows: Tensor) -> Tensor:
    """The consecutive rows that are this process's part of what all have."""
    return rows if n_processes() == 1 else rows.tensor_split(n_processes())[rank()]


def tell_reason(error: BaseException) -> None:
    """Leave word of why this process ends, for those that will miss it."""
    words = " ".join(f"{error}".split()) or type(error).__name__
    kind = "" if isinstance(error, (RunError, InvalidOption)) else f"{type(error).__name__}: "
    try:
        _store().set(REASON, f"{kind}{words}")
    except RuntimeError:
        return  # nobody is there to be told


def told_reason() -> str | None:
    """What a process that has ended said, if it did."""
    try:
        store = _store()
        return store.get(REASON).decode() if store.check([REASON]) else None
    except RuntimeError:
        return None


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()
