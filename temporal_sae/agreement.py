"""What one process does for all, or all do at once, and errors that become those of all."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch.distributed as dist

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.processes import (
    ProcessLost,
    alone,
    are_announced,
    control_group,
    exchange,
    is_first,
    n_processes,
    tell_reason,
)

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


@contextmanager
def of_one_run(on_cuda: bool) -> Iterator[None]:
    """Join the processes that the environment tells of, if it does, while the context is open.

    All but the first are silent from now on, errors apart. How this process ends, if by an error,
    the others are told.

    Args:
        on_cuda: the run computes on GPUs.

    Raises:
        RunError: the environment is incomplete.
    """
    if not are_announced():
        yield
        return
    from temporal_sae.process_group import join, leave  # slow to import

    join(on_cuda)
    if not is_first():
        logging.disable(logging.WARNING)
    try:
        yield
    except BaseException as error:
        in_order = raised_by_all(error)
        if not in_order and not isinstance(error, ProcessLost):
            tell_reason(error)
        elif not is_first():
            error.said_by_first = True  # type: ignore[attr-defined]
        leave(in_order)
        raise
    else:
        leave(in_order=True)


def together(function: Callable[[], T]) -> T:
    """The first process calls, as if it were alone; all get what it returns, or raise what it does.

    The others wait, for as long as it takes.
    """
    if n_processes() == 1:
        return function()
    result: Any = None
    problem: BaseException | None = None
    if is_first():
        try:
            with alone():
                result = function()
        except BaseException as error:  # noqa: BLE001 - it goes on up, here and elsewhere
            problem = error
    outcome = [_packed(result, problem)]
    try:
        with exchange():
            dist.broadcast_object_list(outcome, 0, group=control_group())
    except ProcessLost:
        if problem is None:
            raise
    if problem is not None:
        raise by_all(problem)
    result, found = _unpacked(outcome[0])
    if found is not None:
        raise by_all(found)
    return cast(T, result)


def everywhere(function: Callable[[], T]) -> T:
    """All call; where any is told of a mistake that a person can correct, all raise that one."""
    if n_processes() == 1:
        return function()
    result: Any = None
    problem: RunError | InvalidOption | None = None
    try:
        result = function()
    except (RunError, InvalidOption) as error:
        problem = error
    outcomes: list[Any] = [None] * n_processes()
    with exchange():
        dist.all_gather_object(outcomes, _packed(None, problem), group=control_group())
    problems = [found for _, found in map(_unpacked, outcomes) if found is not None]
    if not problems:
        return cast(T, result)
    raise by_all(problem or problems[0])


def by_all(error: E) -> E:
    """Mark an error that every process raises at the same place."""
    error.raised_by_all = True  # type: ignore[attr-defined]
    return error


def raised_by_all(error: BaseException) -> bool:
    """Whether it has been marked by `by_all`."""
    return getattr(error, "raised_by_all", False)


def was_told(error: BaseException) -> bool:
    """After `of_one_run`: whether it is left to the first process to say what went wrong."""
    return getattr(error, "said_by_first", False)


def _packed(result: Any, error: BaseException | None) -> bytes:
    """Both as bytes, for processes of the same run only: nothing of it is ever read from a disk.

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
