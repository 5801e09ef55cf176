"""Shards of a store → rows, as fast as the disk gives them."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from temporal_sae.activations.rows import Rows
from temporal_sae.activations.store.folder import Shard, StoreFolder
from temporal_sae.activations.store.shards import Columns, Damaged
from temporal_sae.data.sources import shuffled
from temporal_sae.errors import RunError

log = logging.getLogger(__name__)

Loaded = tuple[Columns, mmap.mmap | None]  # a shard, and the memory to be used again
TOGETHER = 2  # shards whose rows are given in turn; as many more are read meanwhile
ROWS_AT_ONCE = 256


class StoreReader:
    """Rows of a store, pass after pass.

    The first pass takes the shards in the order in which they are built, so that it can begin
    before all of them are there; the rows of each are in random order already. Every later pass
    takes them in another random order.

    Two threads read the next shards and check them while the rows of the last ones are used. What
    goes wrong there is told where those rows are asked for.

    Args:
        folder: has a manifest.
        seed: fixes the order.
        wait_for: returns once a segment is there.
        repair: makes a segment again of which a shard is damaged.
    """

    def __init__(
        self,
        folder: StoreFolder,
        seed: int,
        wait_for: Callable[[int], None],
        repair: Callable[[Shard, Damaged], None],
    ) -> None:
        self.folder, self.seed, self.layout = folder, seed, folder.layout
        self._wait_for, self._repair = wait_for, repair
        self._pool = ThreadPoolExecutor(TOGETHER, thread_name_prefix="store")
        self._begin(0, 0, 0)

    def _begin(self, epoch: int, group: int, block: int) -> None:
        self.epoch, self.group, self.block = epoch, group, block
        shards = [s for n in range(self.folder.n_segments) for s in self.folder.shards(n)]
        self._order = shuffled(shards, self.seed, epoch) if epoch else shards
        self._held: list[Loaded] = []
        self._coming: dict[Shard, Future[Loaded]] = {}
        self._buffers: list[mmap.mmap] = []

    def read(self) -> Rows:
        """Rows of the next of the open shards."""
        if not self._held:
            self._open_group()
        start, which = self._turns[self.block]
        columns, _ = self._held[which]
        rows = self.layout.decode(columns, slice(start, start + ROWS_AT_ONCE))
        self.block += 1
        if self.block == len(self._turns):
            self._end_group()
        return rows

    def _shards_of(self, group: int) -> Sequence[Shard]:
        return self._order[group * TOGETHER : (group + 1) * TOGETHER]

    def _open_group(self) -> None:
        own = self._shards_of(self.group)
        for shard in own:
            self._wait_for(shard.segment)
        loads = [
            self._coming.pop(shard) if shard in self._coming else self._load(shard) for shard in own
        ]
        self._held = [self._result(*pair) for pair in zip(own, loads, strict=True)]
        self._turns = sorted(
            (start, which)
            for which, shard in enumerate(own)
            for start in range(0, shard.rows, ROWS_AT_ONCE)
        )
        for shard in self._shards_of(self.group + 1):
            if self.folder.has(shard.segment):
                self._coming[shard] = self._load(shard)

    def _load(self, shard: Shard) -> Future[Loaded]:
        # Memory that is new costs as much as the disk: each page of it has to be made first.
        buffer = self._buffers.pop() if self._buffers else in_large_pages(self.folder.shard_bytes)
        return self._pool.submit(lambda: (self.folder.load(shard, buffer), buffer))

    def _result(self, shard: Shard, load: Future[Loaded]) -> Loaded:
        try:
            return load.result()
        except Damaged as damage:
            self._repair(shard, damage)
            return self.folder.load(shard), None

    def _end_group(self) -> None:
        self._buffers += [buffer for _, buffer in self._held if buffer is not None]
        self._held, self.block, self.group = [], 0, self.group + 1
        if not self._shards_of(self.group):
            if self.epoch == 0:
                n = self.folder.manifest["key"]["num_tokens"]
                told = "all %s rows of the store have been read into the shuffle buffer"
                log.info(f"{told}; reading begins again", f"{n:,}")
            self._begin(self.epoch + 1, 0, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the pass, of the open shards, and of the next block of rows."""
        return {"epoch": self.epoch, "group": self.group, "block": self.block}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            RunError: the store has no such place.
        """
        epoch, group, block = (int(state[name]) for name in ("epoch", "group", "block"))
        if epoch >= 0 and group >= 0:
            self._begin(epoch, group, block)
        n_blocks = sum(-(-shard.rows // ROWS_AT_ONCE) for shard in self._shards_of(group))
        if epoch < 0 or group < 0 or not 0 <= block < n_blocks:
            raise RunError(
                f"{self.folder.path}: block {block} of shards {group} of pass {epoch}, at which "
                "the checkpoint goes on, does not exist; continue with the store of that run, or "
                "choose another folder"
            )


def in_large_pages(n_bytes: int) -> mmap.mmap:
    """Return new memory, into which the system copies files in half the time of small pages."""
    memory = mmap.mmap(-1, n_bytes)
    with suppress(AttributeError, OSError):  # a system without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
