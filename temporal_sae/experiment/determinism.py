"""A seed fixes everything on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from temporal_sae.distributed import world_size

log = logging.getLogger(__name__)

MOST_THREADS = 1024  # of a record that may be believed


@contextmanager
def deterministic_on_cpu(device: torch.device) -> Iterator[None]:
    """Let torch use only algorithms that give the same bits every time, while the context is open.

    Without it the gradient of an indexing operation is summed by atomic additions, in whatever
    order the threads arrive. On CUDA nothing changes: there the price would be high.
    """
    before = torch.are_deterministic_algorithms_enabled()
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        settings.fill_uninitialized_memory = False  # costs time, changes nothing
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fill


@contextmanager
def threads_of(record: Mapping[str, Any] | None, device: torch.device) -> Iterator[None]:
    """Compute with as many threads as a run was begun with, while the context is open.

    On the CPU a sum is split among them, so another number gives other last bits. With another
    number of processes they differ anyway.

    Args:
        record: of the run that is continued; None for a new one.
        device: where it computes.
    """
    usual = torch.get_num_threads()
    known = record or {}
    began_with: Any = known.get("threads", usual)
    is_same = device.type == "cpu" and known.get("processes") == world_size()
    is_number = isinstance(began_with, int) and 1 <= began_with <= MOST_THREADS
    if not (is_same and is_number) or began_with == usual:
        yield
        return
    log.info("computing with %d threads, as the run began, and not with %d", began_with, usual)
    torch.set_num_threads(began_with)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
