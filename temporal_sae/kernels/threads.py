"""Compiled loops on as many threads as torch has been given, which sleep while they wait.

The compiler's own parallel loops are not used: with OpenMP they take threads that torch was not
given, change torch's number of threads, and burn a core while they wait for work.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from temporal_sae.kernels import compiling

compiling.watch()

# A loop lets go of Python's lock, so that its parts run side by side. Its machine code is kept on
# disk until its own file changes, and no other: no loop may call one of another file.
compiled = partial(numba.njit, nogil=True, cache=True, error_model="numpy")

LEAST_BYTES = 2**16  # of the arrays: with fewer, waking a thread takes longer than the work


def on_threads(loop: Callable[..., object], *arguments: Any) -> None:
    """Call `loop(part, parts, *arguments)` for each part, side by side.

    Args:
        loop: does its part of the work, `compiled`; the parts must write to different places, and
            how many there are must not change what they write.
        arguments: numbers, arrays, and tuples of arrays.
    """
    parts = torch.get_num_threads()
    if parts > 1 and _nbytes(arguments) < LEAST_BYTES:
        parts = 1
    if parts == 1:
        loop(0, 1, *arguments)
        return
    in_parts(lambda part: loop(part, parts, *arguments), parts)


def as_array(tensor: Tensor) -> np.ndarray:
    """Return float32 whatever the precision of the numbers; integers as they are."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy()


def in_parts(work: Callable[[int], object], parts: int) -> None:
    """Call `work(part)` for each part: part 0 here, the others on threads of their own."""
    others = [_pool(parts - 1).submit(work, part) for part in range(1, parts)]
    try:
        work(0)
    finally:
        wait(others)
    for other in others:
        other.result()  # raises what it raised


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "kernels")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child does not inherit the threads


def _nbytes(arguments: tuple[Any, ...]) -> int:
    arrays = (a for item in arguments for a in (item if isinstance(item, tuple) else (item,)))
    return sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))
