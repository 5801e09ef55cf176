"""Shards of a store → rows, as fast as the disk gives them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from temporal_sae.activations.rows import Rows
from temporal_sae.activations.store.folder import Shard, StoreFolder
from temporal_sae.activations.store.shards import Columns, Damaged
from temporal_sae.data.sources import shuffled

log = logging.getLogger(__name__)

TOGETHER = 2  # shards whose rows are given in turn; as many more are read meanwhile
ROWS_AT_ONCE = 1024


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
        self._held: list[Columns] = []
        self._coming: dict[Shard, Future[Columns]] = {}

    def read(self) -> Rows:
        """Rows of each of the shards that are open."""
        if not self._held:
            self._open_group()
        n = ROWS_AT_ONCE // TOGETHER
        which = slice(self.block * n, (self.block + 1) * n)
        parts = [self.layout.decode(columns, which) for columns in self._held]
        x = torch.cat([part.x for part in parts])
        places = torch.cat([part.places for part in parts if part.places is not None])
        self.block += 1
        if all(len(columns["x"]) <= self.block * n for columns in self._held):
            self._end_group()
        return Rows(x, places)

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
        for shard in self._shards_of(self.group + 1):
            if self.folder.has(shard.segment):
                self._coming[shard] = self._load(shard)

    def _load(self, shard: Shard) -> Future[Columns]:
        return self._pool.submit(self.folder.load, shard)

    def _result(self, shard: Shard, load: Future[Columns]) -> Columns:
        try:
            return load.result()
        except Damaged as damage:
            self._repair(shard, damage)
            return self.folder.load(shard)

    def _end_group(self) -> None:
        self._held, self.block, self.group = [], 0, self.group + 1
        if not self._shards_of(self.group):
            if self.epoch == 0:
                n = self.folder.manifest["key"]["num_tokens"]
                log.info("all %s rows of the store have been read; they are read again", f"{n:,}")
            self._begin(self.epoch + 1, 0, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the pass, of the open shards, and of the next block of rows."""
        return {"epoch": self.epoch, "group": self.group, "block": self.block}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self._begin(int(state["epoch"]), int(state["group"]), int(state["block"]))
