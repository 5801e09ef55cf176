"""The process group of a run: work of rank 0 for all, and errors that all ranks raise.

An error is *collective* where every process raises it at the same place. After a collective error
all of them can leave in order; after any other the rest waits in vain for the one that failed.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch.distributed as dist

from temporal_sae.distributed.collectives import (
    ProcessLost,
    alone,
    control_group,
    is_launched,
    is_rank_zero,
    one_line_errors,
    record_failure,
    world_size,
)
from temporal_sae.errors import InvalidOption, RunError

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


@contextmanager
def process_group(on_cuda: bool) -> Iterator[None]:
    """Join the processes that the environment announces, if any, while the context is open.

    All but rank 0 log nothing but errors from now on. Where an error ends this process, the others
    can read why. Inside of another one it does nothing.

    Args:
        on_cuda: the run computes on GPUs.

    Raises:
        RunError: the environment is incomplete.
    """
    if not is_launched() or dist.is_initialized():
        yield
        return
    from temporal_sae.distributed.environment import join, leave  # slow to import

    join(on_cuda)
    if not is_rank_zero():
        logging.disable(logging.WARNING)
    try:
        yield
    except BaseException as error:
        in_order = is_collective(error)
        if not in_order and not isinstance(error, ProcessLost):
            record_failure(error)
        elif not is_rank_zero():
            error.left_to_rank_zero = True  # type: ignore[attr-defined]
        leave(in_order)
        raise
    else:
        leave(in_order=True)


def on_rank_zero(function: Callable[[], T]) -> T:
    """Call a function in rank 0, as if it were alone; return or raise its outcome in all ranks.

    The others wait, for as long as it takes.
    """
    if world_size() == 1:
        return function()
    result: Any = None
    problem: BaseException | None = None
    if is_rank_zero():
        try:
            with alone():
                result = function()
        except BaseException as error:  # noqa: BLE001 - it goes on up, here and elsewhere
            problem = error
    outcome = [_packed(result, problem)]
    try:
        with one_line_errors():
            dist.broadcast_object_list(outcome, 0, group=control_group())
    except ProcessLost:
        if problem is None:
            raise
    if problem is not None:
        raise collective(problem)
    result, found = _unpacked(outcome[0])
    if found is not None:
        raise collective(found)
    return cast(T, result)


def raise_on_all_ranks(function: Callable[[], T]) -> T:
    """Call a function in all ranks; if one raises an error that a person can correct, all do."""
    if world_size() == 1:
        return function()
    result: Any = None
    problem: RunError | InvalidOption | None = None
    try:
        result = function()
    except (RunError, InvalidOption) as error:
        problem = error
    outcomes: list[Any] = [None] * world_size()
    with one_line_errors():
        dist.all_gather_object(outcomes, _packed(None, problem), group=control_group())
    problems = [found for _, found in map(_unpacked, outcomes) if found is not None]
    if not problems:
        return cast(T, result)
    raise collective(problem or problems[0])


def collective(error: E) -> E:
    """Mark an error as one that every process raises at the same place, and return it."""
    error.is_collective = True  # type: ignore[attr-defined]
    return error


def is_collective(error: BaseException) -> bool:
    """Return True if the error has been marked by `collective`."""
    return getattr(error, "is_collective", False)


def is_left_to_rank_zero(error: BaseException) -> bool:
    """Return True if rank 0 reports the error that has come out of `process_group`."""
    return getattr(error, "left_to_rank_zero", False)


def _packed(result: Any, error: BaseException | None) -> bytes:
    """Return both as bytes, for processes of the same run only: they are never read from a disk.

    Errors are taken apart, since those of several arguments do not come back whole.
    """
    if error is None:
        return pickle.dumps((result, None))
    try:
        return pickle.dumps((None, (*error.__reduce__()[:2], error.__dict__)))
    except Exception:  # noqa: BLE001 - whatever an error may hold
        return pickle.dumps((None, (ProcessLost, (f"{type(error).__name__}: {error}",), {})))


def _unpacked(packed: bytes) -> tuple[Any, BaseException | None]:
    result, parts = pickle.loads(packed)
    if parts is None:
        return result, None
    kind, arguments, attributes = parts
    try:
        error: BaseException = kind(*arguments)
    except Exception:  # noqa: BLE001 - its constructor takes other arguments
        error = kind.__new__(kind, *arguments)
        error.args = arguments
    error.__dict__.update(attributes)
    return None, error
