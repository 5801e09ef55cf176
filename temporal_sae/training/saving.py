"""When a training is saved, and how: while it waits, or in the background."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from time import monotonic

import torch

from temporal_sae import distributed
from temporal_sae.machine import MIB, free_memory
from temporal_sae.training.checkpoint import Checkpoints
from temporal_sae.training.parts import Parts
from temporal_sae.training.snapshots import is_kept
from temporal_sae.training.state import TrainingState, snapshot
from temporal_sae.training.state_file import State, bytes_of

log = logging.getLogger(__name__)

SMALL = 64 * MIB  # is written within a fraction of a second, which a thread would hardly save
COPIES_THAT_FIT = 2  # of which one is made: training must not run out of memory meanwhile
UNKNOWN = "an unknown number"  # where the system does not say


class Saving:
    """Saves one training: checkpoints to continue from, and SAEs that are kept for good.

    Args:
        every: steps between checkpoints.
        minutes: after which there is one at the next logged step; None: steps alone count.
        log_every: steps between logged ones.
        keep_every: see `is_kept`.
        clock: seconds, from wherever.
    """

    def __init__(
        self,
        every: int,
        minutes: float | None,
        log_every: int,
        keep_every: int | str | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.every, self.minutes, self.log_every = every, minutes, log_every
        self.keep_every, self._clock = keep_every, clock
        self._last, self._is_told = clock(), False
        self.saved_at: int | None = None

    def after_step(self, parts: Parts, run: TrainingState, is_last: bool) -> None:
        """Save what is due after a step.

        Raises:
            RunError: a number is not finite.
            OSError: the checkpoint could not be written, or the one before.
        """
        if parts.snapshots and is_kept(run.step, self.keep_every):
            run.health.raise_if_not_finite()
            keep = partial(parts.snapshots.keep, run.step, parts.sae)
            distributed.on_rank_zero(keep)
        if is_last:
            self.save(parts, run)
        elif self._is_due(run.step):
            self.save(parts, run, may_go_on=True)

    def save(self, parts: Parts, run: TrainingState, *, may_go_on: bool = False) -> None:
        """Write a checkpoint, unless there is one of this step.

        Args:
            parts: of the training.
            run: the rest of its state.
            may_go_on: training may go on while it is written.

        Raises:
            RunError, OSError: see `after_step`.
        """
        run.health.raise_if_not_finite()
        checkpoints = parts.checkpoints
        if not checkpoints.keep:
            return
        distributed.on_rank_zero(checkpoints.background.wait)  # first: it holds a copy
        if self.saved_at == run.step:
            return
        state = snapshot(parts, run)
        if may_go_on:
            distributed.on_rank_zero(partial(self._write, checkpoints, run.step, state))
        else:
            distributed.on_rank_zero(partial(checkpoints.save, run.step, state))
        self.saved_at, self._last = run.step, self._clock()

    def _is_due(self, step: int) -> bool:
        """Return the same in all processes, whose clocks differ: the first one's is asked."""
        if step % self.every == 0:
            return True
        if self.minutes is None or step % self.log_every:
            return False
        is_late = distributed.is_rank_zero() and self._clock() - self._last >= 60 * self.minutes
        return bool(*distributed.all_reduce_max(int(is_late)))

    def _write(self, checkpoints: Checkpoints, step: int, state: State) -> None:
        """Write in the background what is worth it, if memory allows."""
        n_bytes = bytes_of(state)
        in_background = n_bytes >= SMALL and self._is_room_for(n_bytes)
        if not (in_background and checkpoints.save_in_background(step, state)):
            checkpoints.save(step, state)

    def _is_room_for(self, n_bytes: int) -> bool:
        """Return whether a state can be copied, which is told at the first time."""
        free, needed = free_memory(torch.device("cpu")), COPIES_THAT_FIT * n_bytes
        is_room = free is not None and free.n_bytes >= needed
        if not self._is_told:
            size, memory = f"{n_bytes / MIB:,.0f} MiB", f"{needed / MIB:,.0f} MiB of memory"
            why = f"training waits for it: beside it takes {memory}, and {free or UNKNOWN} are free"
            how = "training goes on" if is_room else why
            log.info("while a checkpoint of %s is written %s", size, how)
        self._is_told = True
        return is_room
