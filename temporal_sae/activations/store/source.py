"""The source of activations that reads a store, and builds it where model and text are given."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae.activations.language_model import LanguageModel
from temporal_sae.activations.prefetch import AUTO
from temporal_sae.activations.rows import Rows
from temporal_sae.activations.source import LANGUAGE_MODEL, TEXT, ActivationSource
from temporal_sae.activations.store.builder import Builder
from temporal_sae.activations.store.construction import Construction
from temporal_sae.activations.store.folder import InUse, Shard, StoreFolder
from temporal_sae.activations.store.key import (
    check_options,
)
from temporal_sae.activations.store.reader import ROWS_AT_ONCE, TOGETHER, StoreReader
from temporal_sae.activations.store.shards import Columns, Damaged
from temporal_sae.data import Split, TextSource
from temporal_sae.data.sources import hash_of
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.machine import Planned
from temporal_sae.registry import component
from temporal_sae.schemas import StoredShard

log = logging.getLogger(__name__)


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
        self.device = torch.device(device)
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
        self.construction = Construction(
            self.folder, self.options, model, text, options_of, self.device
        )
        self._in_use: InUse | None = None

    def open(self) -> None:
        """Find the store; build it where it is unfinished, unless another process does.

        Raises:
            InvalidOption, RunError: there is none that could be used, or it is one of other rows.
        """
        if self._in_use is not None:
            return
        self.construction.check_content()
        self.construction.check_held_out()
        if self.construction.asked is not None and not self.folder.is_finished:
            self.construction.build()
        self.construction.wait_until(
            lambda: self.folder.exists and self.folder.held_out() is not None
        )
        self.construction.check_content()
        manifest = self.folder.manifest
        self.d_in, self.layer, self.name = manifest["d_in"], manifest["layer"], manifest["name"]
        self.dtype = self.folder.layout.read_as
        self.context_size = self.sequence_rows = manifest["key"]["context_size"]
        self.prepend_bos = manifest["key"]["prepend_bos"]
        self._in_use = self.folder.use()

    # Reading.

    def check_order(self) -> None:
        """Refuse: the order of the text is not kept."""
        raise RunError(
            "tracker.stream='ordered': must be shuffled with activations=store, whose rows are "
            "in random order on the disk; activations=harvest reads a text in its order"
        )

    def reader(self, seed: int) -> StoreReader:
        """Return the training rows, pass after pass."""
        self.open()
        return StoreReader(self.folder, seed, self._wait_for, self._repair_shard)

    def _wait_for(self, segment: int) -> None:
        self.construction.wait_until(lambda: self.folder.has(segment))

    def _repair_shard(self, shard: Shard, damage: Damaged) -> None:
        def make(builder: Builder) -> None:
            try:
                self.folder.load(shard)  # another process may have been faster
            except Damaged:
                builder.make_segment(shard.segment)

        self.construction.repair(damage, self.folder.shard_path(shard), make)

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
            self.construction.repair(damage, path, lambda builder: builder.make_held_out())
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
        model = self.construction.harvest.planned_bytes() if self.model is not None else {}
        held = {name: item for name, item in model.items() if item.held}
        return {**held, **super().planned_bytes(), "open shards": shards}

    # What the store tells of itself, and what evaluations ask of a language model.

    def why_not(self, need: str) -> str | None:
        """Return why an evaluation cannot have what it needs; a model that it needs is loaded."""
        if need not in (LANGUAGE_MODEL, TEXT):
            return super().why_not(need)
        if self.construction.asked is None:
            return "a store is read without model and text; model=NAME data=NAME give them"
        return self.language_model.why_no_loss if need == LANGUAGE_MODEL else None

    @property
    def language_model(self) -> LanguageModel:
        """The language model, loaded if it is not yet."""
        self.model = self.construction.harvest.language_model
        return self.model

    def held_out_rows(self, seed: int) -> Iterator[Int[Tensor, "context 4"]]:
        """Yield the held-out sequences as rows of (token, document, position, kinds)."""
        return self.construction.harvest.held_out_rows(seed)

    def metadata(self) -> dict[str, Any]:
        """Return the model and the place that an SAE belongs to."""
        return dict(self.folder.manifest["metadata"])

    def describe(self) -> dict[str, Any]:
        """Return a hash of all that determines the rows."""
        if self.folder.exists:
            return {"store": self.folder.identity}
        return {"store": hash_of(dict(self.construction.asked))} if self.construction.asked else {}


def together(sequences: list[Rows], device: torch.device) -> Rows:
    """Return sequences as rows under each other."""
    x = torch.cat([rows.x for rows in sequences]).to(device)
    places = torch.cat([rows.places for rows in sequences if rows.places is not None])
    marks = torch.cat([rows.sequences for rows in sequences if rows.sequences is not None])
    return Rows(x, places.to(device), marks.to(device))
