"""Build and mend a store, or wait for another process that does."""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from temporal_sae import signals
from temporal_sae.activations.harvest import Harvest
from temporal_sae.activations.language_model import LanguageModel
from temporal_sae.activations.model_files import hash_of_files
from temporal_sae.activations.store.builder import Builder
from temporal_sae.activations.store.folder import (
    HELD_OUT,
    MANIFEST,
    MOST_SHARDS,
    StoreFolder,
    most_shards,
)
from temporal_sae.activations.store.key import (
    key_of,
    of_loaded,
    options_that_count,
    other_options,
    other_origin,
)
from temporal_sae.activations.store.shards import Damaged, Layout
from temporal_sae.data import TextSource
from temporal_sae.distributed import world_size
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.locks import Timeout
from temporal_sae.machine import MIB, free_memory
from temporal_sae.schemas import StoreKey, StoreManifest

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.1
HOW_TO_BUILD = (
    "with model=NAME data=NAME the same command builds it, or python -m temporal_sae.activations "
    "build does beforehand"
)


class Construction:
    """The work on a store that is missing, unfinished or damaged.

    Args:
        folder: of the store.
        options: that are asked for; null where any will do.
        model: the language model, or a function that loads it; None to use what is there alone.
        text: where its text comes from.
        options_of: gives the options of the groups `model` and `data`.
        device: where the model is.

    Raises:
        RunError: one of model and text is there without the other.
    """

    def __init__(
        self,
        folder: StoreFolder,
        options: Mapping[str, Any],
        model: LanguageModel | Callable[[], LanguageModel] | None,
        text: TextSource | None,
        options_of: Callable[[str], Any] | None,
        device: torch.device,
    ) -> None:
        if (model is None) != (text is None):
            there, lacking = ("model", "data") if text is None else ("data", "model")
            raise RunError(f"{lacking}: is missing; a store takes both or neither, and has {there}")
        self.folder, self.options, self.device = folder, dict(options), device
        self._model, self._text, self._options_of = model, text, options_of
        self._harvest: Harvest | None = None

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

    def check_content(self) -> None:
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

    def build(self) -> bool:
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
        """Return what builds; the caller holds the lock. A missing manifest is written."""
        self.check_content()
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

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Wait until something is there that another process builds; if it has ended, build it."""
        told = False
        while not done():
            if self.asked is not None and self.build():
                continue
            if self.asked is None and not self.folder.is_being_built and not done():
                state = "is unfinished" if self.folder.exists else "holds no store"
                raise RunError(f"activations.path={self.folder.path}: {state}; {HOW_TO_BUILD}")
            if not told:
                log.info("%s: waiting for the process that builds it", self.folder.path)
                told = True
            signals.obey()
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def check_held_out(self) -> None:
        """Make a record of the held-out shards again that is damaged, with the shards.

        Raises:
            RunError: there is nothing to make them from.
        """

        def make(builder: Builder) -> None:
            try:
                self.folder.held_out()  # another process may have been faster
            except RunError:
                builder.make_held_out()

        try:
            if self.folder.exists:
                self.folder.held_out()
        except RunError as error:
            damage, path = Damaged(str(error)), self.folder.path / f"{HELD_OUT}.json"
            self.repair(damage, path, make)

    def repair(self, damage: Damaged, path: Path, make: Callable[[Builder], None]) -> None:
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
    if (n := most_shards(key)) > MOST_SHARDS:
        raise RunError(
            f"activations.path={folder.path}: the store has {n:,} shards, and {MOST_SHARDS:,} are "
            "the most; raise activations.shard_rows and activations.mixing_rows"
        )
    held, free = key["mixing_rows"] * row, free_memory(torch.device("cpu"))
    if free is not None and held > free.n_bytes:
        raise RunError(
            f"building the store needs {held / MIB:,.0f} MiB of memory, and {free} are free; lower "
            "activations.mixing_rows"
        )
