"""The source of activations that reads a store, and builds it where model and text are given."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae import signals
from temporal_sae.activations.harvest import Harvest
from temporal_sae.activations.language_model import LanguageModel
from temporal_sae.activations.prefetch import AUTO
from temporal_sae.activations.rows import Rows
from temporal_sae.activations.source import LANGUAGE_MODEL, TEXT, ActivationSource
from temporal_sae.activations.store.builder import Builder
from temporal_sae.activations.store.folder import MANIFEST, InUse, Shard, StoreFolder
from temporal_sae.activations.store.key import (
    check_options,
    hash_of_files,
    key_of,
    of_loaded,
    options_that_count,
    other_options,
    other_origin,
)
from temporal_sae.activations.store.reader import ROWS_AT_ONCE, TOGETHER, StoreReader
from temporal_sae.activations.store.shards import Columns, Damaged, Layout
from temporal_sae.activations.stream import ActivationStream
from temporal_sae.data import Split, TextSource
from temporal_sae.data.sources import hash_of
from temporal_sae.distributed import world_size
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.locks import Timeout
from temporal_sae.machine import MIB, Planned, free_memory
from temporal_sae.registry import component
from temporal_sae.schemas import StoredShard, StoreKey, StoreManifest

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.1
HOW_TO_BUILD = (
    "with model=NAME data=NAME the same command builds it, or python -m temporal_sae.activations "
    "build does beforehand"
)


@component("activations")
class ActivationStore(ActivationSource):
    """Activations in a store on disk.

    A finished store is used as it is. Where it is missing or unfinished, model and text build it;
    of several processes at once one does, and the others read what is there already. Options that
    are null are as the store has them, and have a default where it is built.

    Args:
        path: the folder of the store.
        num_tokens: rows for training; 1,000,000 by default.
        held_out_tokens: tokens of held-out sequences; 131,072 by default.
        context_size, prepend_bos, exclude, lm_batch_size: see `Harvest`, with its defaults.
        seed: fixes the order in which text is read and rows are mixed; 0 by default. The run's seed
            decides in which order the store is read.
        dtype: of the rows: bfloat16, the default, float32, or int8 with a scale for every row.
        shard_rows: rows in a file; 16,384 by default.
        mixing_rows: rows of the text that are mixed as a whole; 262,144 by default. While a store
            is built they are in memory.
        buffer_tokens, normalize, outliers, outlier_factor, prefetch: see `StreamOptions`.
        model: the language model, or a function that loads it.
        text: where its text comes from.
        options_of: gives the options of `model` and of `data`, which tell one from another.
        device: where batches are.

    Raises:
        InvalidOption: an option is out of range.
        RunError: one of model and text is there without the other.
    """

    def __init__(
        self,
        path: str,
        num_tokens: int | None = None,
        held_out_tokens: int | None = None,
        context_size: int | None = None,
        prepend_bos: bool | None = None,
        exclude: Collection[str] | None = None,
        lm_batch_size: int | None = None,
        seed: int | None = None,
        dtype: str | None = None,
        shard_rows: int | None = None,
        mixing_rows: int | None = None,
        buffer_tokens: int = 32768,
        normalize: bool = True,
        outliers: str = "keep",
        outlier_factor: float = 10.0,
        prefetch: str | bool | int = AUTO,
        *,
        model: LanguageModel | Callable[[], LanguageModel] | None = None,
        text: TextSource | None = None,
        options_of: Callable[[str], Any] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(buffer_tokens, normalize, outliers, outlier_factor, prefetch)
        if not isinstance(path, (str, Path)) or not str(path):
            raise InvalidOption("path", path, "the folder of a store, which may be still to come")
        self.folder = StoreFolder(Path(os.path.expanduser(str(path))))
        self.device, self._text, self._model = torch.device(device), text, model
        self.options = check_options(
            {
                "num_tokens": num_tokens,
                "held_out_tokens": held_out_tokens,
                "context_size": context_size,
                "prepend_bos": prepend_bos,
                "exclude": exclude,
                "lm_batch_size": lm_batch_size,
                "seed": seed,
                "dtype": dtype,
                "shard_rows": shard_rows,
                "mixing_rows": mixing_rows,
            }
        )
        if (model is None) != (text is None):
            there, lacking = ("model", "data") if text is None else ("data", "model")
            raise RunError(f"{lacking}: is missing; a store takes both or neither, and has {there}")
        self._options_of = options_of
        self._harvest: Harvest | None = None
        self._in_use: InUse | None = None

    @cached_property
    def asked(self) -> StoreKey | None:
        """The key of the store that model, text and options ask for; None without model."""
        if self._model is None or self._text is None:
            return None
        if self._options_of is None:
            model = {} if callable(self._model) else of_loaded(self._model)
            return key_of(model, {}, self._text, self.options)
        model, data = (
            options_that_count(group, self._options_of(group)) for group in ("model", "data")
        )
        return key_of(model, data, self._text, self.options)

    def open(self) -> None:
        """Find the store; build it where it is unfinished, unless another process does.

        Raises:
            InvalidOption, RunError: there is none that could be used, or it is one of other rows.
        """
        if self._in_use is not None:
            return
        self._compare()
        if self.asked is not None and not self.folder.is_finished:
            self._build()
        self._until(lambda: self.folder.exists and self.folder.held_out() is not None)
        self._compare()
        manifest = self.folder.manifest
        self.d_in, self.layer, self.name = manifest["d_in"], manifest["layer"], manifest["name"]
        self.dtype = self.folder.layout.read_as
        self.context_size = self.sequence_rows = manifest["key"]["context_size"]
        self.prepend_bos = manifest["key"]["prepend_bos"]
        self._in_use = self.folder.use()

    def _compare(self) -> None:
        """Refuse a store of other rows than are asked for."""
        if not self.folder.exists:
            return
        path, manifest = self.folder.path, self.folder.manifest
        for option, given, own in other_options(manifest["key"], self.options):
            raise InvalidOption(option, given, f"{own} or null, since {path} holds such a store")
        if self.asked is not None:
            for difference in other_origin(manifest, self.asked):
                raise RunError(
                    f"activations.path={path}: holds activations of {difference}; choose another "
                    "folder, or leave out model and data to use it as it is"
                )

    # Building.

    @property
    def harvest(self) -> Harvest:
        """The model and the text that are given, with the options of the store."""
        if self._harvest is None:
            assert self.asked is not None and self._model is not None and self._text is not None
            key = self.folder.manifest["key"] if self.folder.exists else self.asked
            self._harvest = Harvest(
                context_size=key["context_size"],
                prepend_bos=key["prepend_bos"],
                exclude=key["exclude"],
                lm_batch_size=key["lm_batch_size"],
                model=self._model,
                text=self._text,
                device=self.device,
            )
        return self._harvest

    def _build(self) -> bool:
        """Build what is missing, unless another process does; return True if nothing is left."""
        if world_size() > 1:
            raise RunError(f"{self.folder.path}: is unfinished; several processes do not build one")
        lock = self.folder.building()
        try:
            lock.acquire()
        except Timeout:
            return False
        try:
            self._builder().build()
        finally:
            lock.release()
        self._harvest = None  # with the model, which may be large
        gc.collect()
        return True

    def _builder(self) -> Builder:
        """The manifest is written where there is none; the caller holds the lock."""
        self._compare()
        if not self.folder.exists:
            assert self.asked is not None
            self.harvest.open()
            # Where the model has been fetched just now, its files are known only from here on.
            files = hash_of_files(self.asked["model"])
            manifest: StoreManifest = {
                "version": 1,
                "key": {**self.asked, "files": files},
                "name": self.harvest.name,
                "layer": self.harvest.layer,
                "d_in": self.harvest.d_in,
                "metadata": self.harvest.metadata(),
            }
            if left := next(self.folder.files(), None):
                raise RunError(
                    f"{self.folder.path}: holds {left.name} but no {MANIFEST} of a store; choose "
                    "another folder or move it away"
                )
            check_room(self.folder, manifest)
            self.folder.write(MANIFEST, manifest)
        self.harvest.open()
        return Builder(self.folder, self.harvest)

    def _until(self, done: Callable[[], bool]) -> None:
        """Wait until something is there that another process builds; if it has ended, build it."""
        told = False
        while not done():
            if self.asked is not None and self._build():
                continue
            if self.asked is None and not self.folder.is_being_built and not done():
                state = "is unfinished" if self.folder.exists else "holds no store"
                raise RunError(f"activations.path={self.folder.path}: {state}; {HOW_TO_BUILD}")
            if not told:
                log.info("%s: waiting for the process that builds it", self.folder.path)
                told = True
            signals.obey()
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _repair(self, damage: Damaged, path: Path, make: Callable[[Builder], None]) -> None:
        """Make a damaged file again.

        Raises:
            RunError: there is nothing to make it from.
        """
        told = f"{path}: is damaged: {damage}"
        if self.asked is None or world_size() > 1:
            raise RunError(f"{told}; {HOW_TO_BUILD}") from damage
        log.warning("%s; it is built again", told)
        lock = self.folder.building()
        lock.acquire(-1)
        try:
            make(self._builder())
        finally:
            lock.release()

    # Reading.

    def stream(self, batch_size: int, seed: int, ordered: bool = False) -> ActivationStream:
        """Return the endless, resumable training stream.

        Raises:
            InvalidOption, RunError: the buffer is smaller than a batch, or `ordered` is asked for.
        """
        if ordered:
            raise RunError(
                "tracker.stream='ordered': must be shuffled with activations=store, whose rows are "
                "in random order on the disk; activations=harvest reads a text in its order"
            )
        return super().stream(batch_size, seed)

    def reader(self, seed: int) -> StoreReader:
        """Return the training rows, pass after pass."""
        self.open()
        return StoreReader(self.folder, seed, self._wait_for, self._repair_shard)

    def _wait_for(self, segment: int) -> None:
        self._until(lambda: self.folder.has(segment))

    def _repair_shard(self, shard: Shard, damage: Damaged) -> None:
        def make(builder: Builder) -> None:
            try:
                self.folder.load(shard)  # another process may have been faster
            except Damaged:
                builder.make_segment(shard.segment)

        self._repair(damage, self.folder.shard_path(shard), make)

    def held_out(self, n_sequences: int, batch_sequences: int, seed: int = 0) -> Iterator[Rows]:
        """Yield held-out sequences in the one order that the store has them in, for any seed."""
        self.open()
        waiting: list[Rows] = []
        for rows in itertools.islice(self._sequences(), n_sequences):
            waiting.append(rows)
            if len(waiting) == batch_sequences:
                yield together(waiting, self.device)
                waiting = []
        if waiting:
            yield together(waiting, self.device)

    def _sequences(self) -> Iterator[Rows]:
        record = self.folder.held_out()
        for number, about in enumerate(record["shards"] if record else ()):
            columns = self._load_held_out(number, about)
            start = 0
            for marks in columns["sequences"].bool():
                stop = start + int(marks.sum())
                rows = self.folder.layout.decode(columns, slice(start, stop))
                yield Rows(rows.x, rows.places, marks[None])
                start = stop

    def _load_held_out(self, number: int, about: StoredShard) -> Columns:
        try:
            return self.folder.load_held_out(number, about)
        except Damaged as damage:
            path = self.folder.held_out_path(number)
            self._repair(damage, path, lambda builder: builder.make_held_out())
            record = self.folder.held_out()
            assert record is not None
            return self.folder.load_held_out(number, record["shards"][number])

    def check(self, split: Split) -> None:
        """Refuse a split that has no rows."""
        self.open()
        record = self.folder.held_out()
        if split == "held_out" and not (record and record["shards"]):
            raise RunError(f"{self.folder.path} holds no held-out rows")

    @property
    def rows_at_once(self) -> int:
        """Rows of the shards that are open, as many as a reader gives at once."""
        return ROWS_AT_ONCE

    @property
    def rows_in_pass(self) -> int:
        """All training rows."""
        return self.folder.manifest["key"]["num_tokens"]

    def planned_bytes(self) -> dict[str, Planned]:
        """Return the bytes of the buffer, of the shards that are open, and of the model if any."""
        n_bytes = 2 * TOGETHER * self.folder.shard_bytes
        shards = Planned(n_bytes, ("activations.shard_rows",))
        model = self.harvest.planned_bytes() if self.model is not None else {}
        held = {name: item for name, item in model.items() if item.held}
        return {**held, **super().planned_bytes(), "open shards": shards}

    # What the store tells of itself, and what evaluations ask of a language model.

    def why_not(self, need: str) -> str | None:
        """Return why an evaluation cannot have what it needs; a model that it needs is loaded."""
        if need not in (LANGUAGE_MODEL, TEXT):
            return super().why_not(need)
        if self.asked is None:
            return "a store is read without model and text; model=NAME data=NAME give them"
        return self.language_model.why_no_loss if need == LANGUAGE_MODEL else None

    @property
    def language_model(self) -> LanguageModel:
        """The language model, loaded if it is not yet."""
        self.model = self.harvest.language_model
        return self.model

    def held_out_rows(self, seed: int) -> Iterator[Int[Tensor, "context 4"]]:
        """Yield the held-out sequences as rows of (token, document, position, kinds)."""
        return self.harvest.held_out_rows(seed)

    def metadata(self) -> dict[str, Any]:
        """Return the model and the place that an SAE belongs to."""
        return dict(self.folder.manifest["metadata"])

    def describe(self) -> dict[str, Any]:
        """Return a hash of all that determines the rows."""
        if self.folder.exists:
            return {"store": self.folder.identity}
        return {"store": hash_of(dict(self.asked))} if self.asked else {}


def together(sequences: list[Rows], device: torch.device) -> Rows:
    """Return sequences as rows under each other."""
    x = torch.cat([rows.x for rows in sequences]).to(device)
    places = torch.cat([rows.places for rows in sequences if rows.places is not None])
    marks = torch.cat([rows.sequences for rows in sequences if rows.sequences is not None])
    return Rows(x, places.to(device), marks.to(device))


def check_room(folder: StoreFolder, manifest: StoreManifest) -> None:
    """Refuse a store that fits neither on the disk nor, while it is built, in memory.

    Raises:
        RunError: see above.
    """
    key = manifest["key"]
    row = Layout(manifest["d_in"], key["dtype"]).row_bytes
    needed = (key["num_tokens"] + key["held_out_tokens"]) * row
    there = shutil.disk_usage(folder.path).free
    log.info("%s: a store of %s MiB is built", folder.path, f"{needed / MIB:,.0f}")
    if needed > there:
        raise RunError(
            f"activations.path={folder.path}: the store takes {needed / MIB:,.0f} MiB, and "
            f"{there / MIB:,.0f} are free; lower activations.num_tokens, or activations.dtype=int8"
        )
    held, free = key["mixing_rows"] * row, free_memory(torch.device("cpu"))
    if free is not None and held > free.n_bytes:
        raise RunError(
            f"building the store needs {held / MIB:,.0f} MiB of memory, and {free} are free; lower "
            "activations.mixing_rows"
        )
