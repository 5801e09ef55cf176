"""The tracker across processes: every rank sees all tokens, and may keep a part of the pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor

from temporal_sae.kernels.alpha import AlphaStep
from temporal_sae.kernels.plain import pairs_before
from temporal_sae.tracker.window import Window

_control: dict[str, Any] = {}


def n_processes() -> int:
    """Processes in the default group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _control_group() -> Any:
    """A gloo group beside the default one: small facts travel without waiting for a GPU."""
    default = dist.group.WORLD
    if _control.get("default") is not default:
        on_cpu = "gloo" in dist.get_backend()
        _control["group"] = default if on_cpu else dist.new_group(backend="gloo")
        _control["default"] = default
    return _control["group"]


def _group_for(tensor: Tensor) -> Any:
    """The group through which a tensor can travel: the default one may know GPUs only."""
    return _control_group() if tensor.device.type == "cpu" else dist.group.WORLD


def _shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes that every process tells."""
    own = torch.tensor(shape)
    shapes = [torch.empty_like(own) for _ in range(n_processes())]
    dist.all_gather(shapes, own, group=_control_group())
    return [tuple(shape.tolist()) for shape in shapes]


def gather(tensor: Tensor, fill: int | float) -> list[Tensor]:
    """The tensors of all processes, of one dtype and rank, shapes as they may be."""
    shapes = _shapes(tensor.shape)
    if any(size < 0 for shape in shapes for size in shape):
        raise ValueError("indices: were refused by another process")
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    padded = tensor.new_full(largest, fill)
    padded[tuple(slice(size) for size in tensor.shape)] = tensor
    received = [torch.empty_like(padded) for _ in shapes]
    dist.all_gather(received, padded, group=_group_for(padded))
    pairs = zip(received, shapes, strict=True)
    return [part[tuple(slice(size) for size in shape)] for part, shape in pairs]


def tell_refusal() -> None:
    """Let the processes that wait in `gather` raise too, where this one has nothing to bring."""
    if n_processes() > 1:
        _shapes((-1, -1))


def gather_tokens(rows: Int[Tensor, "tokens K"]) -> Int[Tensor, "all_tokens K"]:
    """The tokens of all processes in the order of their ranks; the same ones without a group."""
    if n_processes() == 1:
        return rows
    parts = gather(rows, -1)
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(p, (0, width - p.shape[1]), value=-1) for p in parts])


def shard_rows(n_latents: int) -> tuple[int, int]:
    """The rows that this process keeps: about as many pairs for each rank."""
    if n_processes() == 1:
        return 0, n_latents
    starts = torch.tensor([pairs_before(n_latents, row) for row in range(n_latents + 1)])
    shares = torch.arange(n_processes() + 1) * starts[-1] // n_processes()
    bounds = torch.searchsorted(starts, shares)
    bounds[-1] = n_latents
    return int(bounds[dist.get_rank()]), int(bounds[dist.get_rank() + 1])


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, which may have laid their parts out in different ways."""
    if n_processes() > 1:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(tensor, group=_group_for(tensor))
    return tensor


class ShardedAverages:
    """Averages of which every process keeps some rows; what is read is put together from all.

    Every rank has the whole window, so only averages are exchanged, and all ranks ask for the same
    pairs at the same time. A checkpoint holds the own rows only.

    Args:
        own: the averages of this process's rows.
    """

    def __init__(self, own: Any) -> None:
        self.own = own
        self.relabel = own.relabel

    @property
    def error_bound(self) -> float:
        """The largest bound of any process."""
        bounds = torch.tensor([getattr(self.own, "error_bound", 0.0)])
        if n_processes() > 1:
            dist.all_reduce(bounds, dist.ReduceOp.MAX, group=_group_for(bounds))
        return float(bounds)

    def close(self, previous: Window | None, step: AlphaStep, window: Window) -> Tensor:
        """See `state.Averages`."""
        return total(self.own.close(previous, step, window))

    def lookup(self, i: Tensor, j: Tensor) -> Tensor:
        """See `state.Averages`."""
        return total(self.own.lookup(i, j))

    def row_block(self, lo: int, hi: int) -> Tensor:
        """See `state.Averages`."""
        return total(self.own.row_block(lo, hi))

    def at_least(self, bound: float) -> tuple[Tensor, Tensor]:
        """See `state.Averages`."""
        own = torch.stack(self.own.at_least(bound))
        parts = gather(own, 0) if n_processes() > 1 else [own]
        i, j = torch.cat(parts, 1)
        return i, j

    def sum_over(self, term: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """See `state.Averages`."""
        return total(self.own.sum_over(term))

    def total(self) -> Tensor:
        """See `state.Averages`."""
        return total(self.own.total())

    def nbytes(self) -> int:
        """Bytes held by this process."""
        return int(self.own.nbytes())

    def state_dict(self) -> dict[str, Any]:
        """The own rows."""
        return dict(self.own.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a state that holds the own rows, this rank's or a whole one.

        Raises:
            ValueError: in every process, if any cannot use its state: one that went on alone would
                mistake the others' next exchange for its own.
        """
        problem: ValueError | None = None
        try:
            self.own.load_state_dict(state)
        except ValueError as error:
            problem = error
        refused = int(total(torch.tensor(int(problem is not None))))
        if problem is not None:
            raise problem
        if refused:
            raise ValueError(f"state: refused by {refused} of {n_processes()} processes")
