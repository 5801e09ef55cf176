"""Collective operations among the processes of one run.

Without a process group every function here returns at once what it returns for one process, so
callers need no branches of their own. All processes have to call the same ones in the same order.
Small facts travel through a gloo group of their own, so that nothing waits for a GPU, and with a
timeout of days, since some may wait while rank 0 evaluates.
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

CONTROL_TIMEOUT = timedelta(days=30)
FAILURE_KEY = "temporal_sae: why a process has ended"

_control: dict[str, Any] = {}
_alone = 0


class ProcessLost(RunError):
    """A collective operation has failed, most likely because another process has ended."""


def world_size() -> int:
    """Return the number of processes of the run; 1 without a group, and inside `alone`."""
    if _alone or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_rank_zero() -> bool:
    """Return True in the one process that writes files and talks to people."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def is_launched() -> bool:
    """Return True where torchrun's or a SLURM step's variables announce several processes.

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
    """Return a gloo group beside the default one, made at its first use."""
    default = dist.group.WORLD
    if _control.get("default") is not default:
        _control["group"] = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
        _control["default"] = default
    return _control["group"]


def _group_for(tensor: Tensor) -> Any:
    """Return a group that can carry the tensor: the default one may know GPUs only."""
    if tensor.device.type == "cpu" and "gloo" not in dist.get_backend():
        return control_group()
    return dist.group.WORLD


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors of torch.distributed into one sentence, with the other's reason if recorded.

    Raises:
        ProcessLost: an operation inside has failed.
    """
    try:
        yield
    except RuntimeError as error:
        reason = recorded_failure()
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise ProcessLost(
            f"another process of the run has failed: {reason}"
            if reason
            else f"another process of the run has ended ({first_line})"
        ) from error


def all_gather(tensor: Tensor, fill: int | float = 0, *, same_shape: bool = False) -> list[Tensor]:
    """Return the tensors of all processes, in the order of their ranks.

    They are of one dtype and number of dimensions, of whatever shapes.

    Args:
        tensor: this process's.
        fill: travels where another one's is larger.
        same_shape: all are known to have the same shape, which saves an exchange.

    Raises:
        ValueError: another process has called `fail_all_gather` instead.
    """
    if world_size() == 1:
        return [tensor]
    n = world_size()
    shapes = [tuple(tensor.shape)] * n if same_shape else all_gather_shapes(tensor.shape)
    if any(size < 0 for shape in shapes for size in shape):
        raise ValueError("refused by another process")
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    padded = tensor.new_full(largest, fill)
    padded[tuple(slice(size) for size in tensor.shape)] = tensor
    received = [torch.empty_like(padded) for _ in shapes]
    # As bytes: gloo does not know every dtype.
    parts, own = [part.view(torch.uint8) for part in received], padded.view(torch.uint8)
    with one_line_errors():
        dist.all_gather(parts, own, group=_group_for(own))
    pairs = zip(received, shapes, strict=True)
    return [part[tuple(slice(size) for size in shape)] for part, shape in pairs]


def all_gather_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shapes that all processes give, in the order of their ranks."""
    own = torch.tensor(shape)
    shapes = [torch.empty_like(own) for _ in range(world_size())]
    with one_line_errors():
        dist.all_gather(shapes, own, group=control_group())
    return [tuple(shape.tolist()) for shape in shapes]


def fail_all_gather(n_dimensions: int) -> None:
    """Make the processes that wait in `all_gather` raise, as this one has nothing to bring."""
    if world_size() > 1:
        all_gather_shapes((-1,) * n_dimensions)


def gather_to_rank_zero(tensor: Tensor) -> list[Tensor]:
    """Return the vectors of all processes, on the CPU, in rank 0; in the others their own."""
    if world_size() == 1:
        return [tensor]
    own, group, first = tensor.detach().cpu().contiguous(), control_group(), is_rank_zero()
    shapes = all_gather_shapes(own.shape)
    received = [torch.empty(shape, dtype=own.dtype) for shape in shapes[1:]] if first else []
    with one_line_errors():
        if not first and own.numel():
            dist.send(own.view(torch.uint8), 0, group=group)
        for number, part in enumerate(received, 1):
            if part.numel():
                dist.recv(part.view(torch.uint8), number, group=group)
    return [own, *received]


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum over all processes, whose tensors may have different strides."""
    if world_size() > 1:
        tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
        with one_line_errors():
            dist.all_reduce(tensor, group=_group_for(tensor))
    return tensor


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Return the mean over all processes."""
    return all_reduce_sum(tensor) / world_size() if world_size() > 1 else tensor


def all_reduce_mean_(tensor: Tensor) -> Tensor:
    """Replace a contiguous tensor by its mean over all processes, in its memory."""
    if world_size() > 1:
        with one_line_errors():
            dist.all_reduce(tensor, group=_group_for(tensor))
        tensor /= world_size()
    return tensor


def all_reduce_any(flags: Tensor) -> Tensor:
    """Return True where a flag is set in any process."""
    return all_reduce_sum(flags.int()) > 0 if world_size() > 1 else flags


def all_reduce_min(tensor: Tensor) -> Tensor:
    """Return the minimum over all processes."""
    if world_size() > 1:
        tensor = tensor.detach().clone()
        with one_line_errors():
            dist.all_reduce(tensor, dist.ReduceOp.MIN, group=_group_for(tensor))
    return tensor


def all_reduce_max(*numbers: int) -> tuple[int, ...]:
    """Return the maximum over all processes of each number."""
    if world_size() == 1:
        return numbers
    largest = torch.tensor(numbers)
    with one_line_errors():
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=control_group())
    return tuple(largest.tolist())


def broadcast_(tensor: Tensor) -> None:
    """Replace a tensor's values by those of rank 0, whatever its strides."""
    if world_size() > 1:
        values = tensor.detach().contiguous()
        with one_line_errors():
            dist.broadcast(values, 0, group=_group_for(values))
        tensor.detach().copy_(values)


def local_shard(rows: Tensor) -> Tensor:
    """Return this process's consecutive part of rows that all processes hold."""
    return rows if world_size() == 1 else rows.tensor_split(world_size())[rank()]


def record_failure(error: BaseException) -> None:
    """Leave the reason why this process ends where `recorded_failure` finds it."""
    words = " ".join(f"{error}".split()) or type(error).__name__
    kind = "" if isinstance(error, (RunError, InvalidOption)) else f"{type(error).__name__}: "
    try:
        _store().set(FAILURE_KEY, f"{kind}{words}")
        _store().check([FAILURE_KEY])  # an answer: `set` returns before the store has the words
    except RuntimeError:
        return  # the store has ended, and with it everybody who would ask


def recorded_failure() -> str | None:
    """Return the reason that a process which has ended left, if it did."""
    try:
        store = _store()
        return store.get(FAILURE_KEY).decode() if store.check([FAILURE_KEY]) else None
    except RuntimeError:
        return None


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()
