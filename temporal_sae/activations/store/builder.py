"""Text → a language model → the shards of a store, one segment at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from temporal_sae import signals
from temporal_sae.activations.harvest import Harvest
from temporal_sae.activations.rows import Reader, Rows
from temporal_sae.activations.source import ROWS
from temporal_sae.activations.store.folder import HELD_OUT, StoreFolder, full_disk
from temporal_sae.activations.store.shards import Columns, write_shard
from temporal_sae.data.sources import hash_of
from temporal_sae.errors import RunError
from temporal_sae.files import remove_temporaries
from temporal_sae.schemas import ReaderPlace, StoredShard

log = logging.getLogger(__name__)

TENSOR = "tensor"  # the key of a tensor's dtype, in the JSON of a reader's state
INTEGERS = {"int32": torch.int32, "int64": torch.int64, "uint8": torch.uint8}


class Builder:
    """Makes what is missing of a store; the caller holds its lock.

    What it writes depends on the manifest alone, however often it is stopped and begun again: a
    segment is computed from the place in the text at which the record of the one before ends.

    Args:
        folder: has a manifest.
        harvest: the model and text of which that tells.
    """

    def __init__(self, folder: StoreFolder, harvest: Harvest) -> None:
        self.folder, self.harvest, self.layout = folder, harvest, folder.layout
        self._next_segment = -1  # at which the rows stand

    def build(self) -> None:
        """Make all that is missing.

        Raises:
            RunError: the text or the model cannot be read, or the disk is full.
        """
        remove_temporaries(self.folder.path)
        if self.folder.held_out() is None:
            self.make_held_out()
        began, missing = time.monotonic(), self.folder.missing()
        for n, number in enumerate(missing):
            self.make_segment(number)
            seconds = (time.monotonic() - began) / (n + 1) * (len(missing) - n - 1)
            told = "%s: segment %d of %d is there; the others take about %s"
            done = self.folder.n_segments - len(missing) + n + 1
            if seconds:
                log.info(told, self.folder.path, done, self.folder.n_segments, in_words(seconds))

    def make_segment(self, number: int) -> None:
        """Compute a segment, which may be there already and damaged."""
        signals.obey()
        shards = self.folder.shards(number)
        self._go_to(number)
        columns = self._read(sum(shard.rows for shard in shards))
        n = len(columns["x"])
        seed = self.folder.manifest["key"]["seed"]
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_of(seed, number)))
        record, start = [], 0
        for shard in shards:
            own = order[start : start + shard.rows]
            part = {name: column[own] for name, column in columns.items()}
            record.append(self._write(self.folder.shard_path(shard), part))
            start += shard.rows
        content = {"shards": record, "mixing_width": width_of(order), "next": self._place()}
        self._note(self.folder.record_path(number).name, content)
        self._next_segment = number + 1

    def make_held_out(self) -> None:
        """Compute the held-out shards."""
        key = self.folder.manifest["key"]
        n_sequences = -(-key["held_out_tokens"] // key["context_size"])
        shards: list[StoredShard] = []
        reason = self.harvest.why_not(ROWS) if n_sequences else "activations.held_out_tokens is 0"
        if reason is not None:
            log.warning("%s gets no held-out rows: %s", self.folder.path, reason)
        else:
            waiting: list[Rows] = []
            for rows in self.harvest.held_out(n_sequences, key["lm_batch_size"]):
                waiting.append(rows)
                if sum(map(len, waiting)) >= key["shard_rows"]:
                    shards.append(self._write_held_out(len(shards), waiting))
                    waiting = []
            if waiting:
                shards.append(self._write_held_out(len(shards), waiting))
        self._note(f"{HELD_OUT}.json", {"shards": shards})

    def _write_held_out(self, number: int, waiting: list[Rows]) -> StoredShard:
        parts = [self.layout.encode(rows) for rows in waiting]
        columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        marks = [rows.sequences.cpu() for rows in waiting if rows.sequences is not None]
        columns["sequences"] = torch.cat(marks).to(torch.uint8)
        return self._write(self.folder.held_out_path(number), columns)

    def _write(self, path: Path, columns: Columns) -> StoredShard:
        return self._on_disk(lambda: write_shard(path, columns))

    def _note(self, name: str, content: Any) -> None:
        self._on_disk(lambda: self.folder.write(name, content))

    def _on_disk(self, write: Callable[[], Any]) -> Any:
        try:
            return write()
        except OSError as error:
            raise full_disk(self.folder.path, error) from error

    # The rows in stream order, of which any number can be taken.

    def _go_to(self, segment: int) -> None:
        """Stand at the first row of a segment."""
        if segment == self._next_segment:
            return
        key = self.folder.manifest["key"]
        self._reader: Reader = self.harvest.reader(key["seed"])
        self._left: Rows | None = None  # of what was read last
        self._before: dict[str, Any] = {}  # the place before that
        self._n_read = 0
        if segment > 0:
            record = self.folder.segment(segment - 1)
            assert record is not None, "segments are made one after the other"
            self._resume(record["next"])

    def _resume(self, place: ReaderPlace) -> None:
        try:
            self._before = from_json(place["reader"])
            self._reader.load_state_dict(self._before)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            told = "has no place in the text from which it could be continued; build another"
            raise RunError(f"{self.folder.path}: {told}") from error
        if place["skip"]:
            rows = self._reader.read()
            self._n_read, self._left = len(rows), rows[place["skip"] :]

    def _read(self, n: int) -> Columns:
        columns, there = self.layout.empty(n), 0
        while there < n:
            if self._left is None or not len(self._left):
                signals.obey()
                self._before = self._reader.state_dict()
                self._left = self._reader.read()
                self._n_read = len(self._left)
            part = self._left[: n - there]
            for name, column in self.layout.encode(part).items():
                columns[name][there : there + len(part)] = column
            there, self._left = there + len(part), self._left[len(part) :]
        return columns

    def _place(self) -> ReaderPlace:
        """Return the place in the text at which the next segment begins."""
        if self._left is None or not len(self._left):
            return {"reader": in_json(self._reader.state_dict()), "skip": 0}
        return {"reader": in_json(self._before), "skip": self._n_read - len(self._left)}


def seed_of(seed: int, segment: int) -> int:
    """Return a seed of 60 bits of its own for every segment."""
    return int(hash_of({"seed": seed, "segment": segment})[:15], 16)


def width_of(order: Tensor) -> float:
    """Return how far apart rows are, on average, that were neighbours before they were ordered."""
    return float(order.argsort().diff().abs().double().mean()) if len(order) > 1 else 0.0


def in_json(state: Any) -> Any:
    """Return the state of a reader as JSON values; its tensors hold whole numbers."""
    if isinstance(state, Tensor):
        return {TENSOR: str(state.dtype).removeprefix("torch."), "values": state.tolist()}
    if isinstance(state, dict):
        return {key: in_json(value) for key, value in state.items()}
    return state


def from_json(state: Any) -> Any:
    """Return the state of a reader again."""
    if not isinstance(state, dict):
        return state
    if TENSOR in state:
        return torch.tensor(state["values"], dtype=INTEGERS[state[TENSOR]])
    return {key: from_json(value) for key, value in state.items()}


def in_words(seconds: float) -> str:
    """`40 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
