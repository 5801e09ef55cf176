"""The folder of a run: who owns it, what state it is in, and its record `run.json`."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from temporal_sae import schemas
from temporal_sae.activations import ActivationSource
from temporal_sae.errors import RunError
from temporal_sae.experiment.new_options import with_new_options
from temporal_sae.experiment.source_record import LISTING, changes_of
from temporal_sae.files import (
    remove_all,
    remove_if_empty,
    remove_temporaries,
    set_aside,
    write_atomically,
)
from temporal_sae.locks import ProcessLock, Timeout
from temporal_sae.training import Checkpoints

log = logging.getLogger(__name__)

RECORD = "run.json"
CHECKPOINTS = "checkpoints"
SECONDS_TO_LOCK = 0.2
# The atlas and the tables for papers are of the SAE that was there.
DERIVED = ("atlas", "report")
EARLIER = ".earlier"
FOLDERS = (".hydra", CHECKPOINTS, "snapshots", "sae", "eval", "wandb", "tensorboard", *DERIVED)
FILES = ("metrics.jsonl", "results.json", "notes.md", "report.html", LISTING, RECORD)
ARTIFACTS = (*FOLDERS, *FILES)
LENGTH = "trainer.num_tokens"
# Options that may differ between the parts of one run: they do not change what it computes.
FREE_TO_CHANGE = ("overwrite", "debug", "objective", "push_to_hub", "logger", "eval", "plugins")
FREE_IN = {
    "trainer": ("resume", "checkpoint_every", "checkpoint_minutes", "keep_every"),
    "activations": ("prefetch",),
    "data": ("changed", "skip_broken"),
    "model": ("local_files_only",),
}


class RunFolder:
    """Claims a folder for one run at a time.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # Not 0: whoever looks whether a run is going on holds the lock for a moment.
        self._lock = ProcessLock(self.path / ".lock", timeout=SECONDS_TO_LOCK)
        self._is_new = self._is_to_be_cleared = self._is_longer = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out of the folder, whatever it holds.

        Raises:
            RunError: it cannot be written, or another process uses it.
        """
        check_writable(self.path)
        self._acquire()
        try:
            yield
        finally:
            self.release()

    def _acquire(self) -> None:
        try:
            self._lock.acquire()
        except Timeout:
            told = f"{self.path}: another process is running in this folder{self._lock.holder()}"
            raise RunError(told) from None

    def claim(
        self, config: dict[str, Any], overwrite: bool, source: ActivationSource | None = None
    ) -> dict[str, Any] | None:
        """Make the folder this run's own; what it holds stays until `make_ready`.

        Args:
            config: of the run.
            overwrite: whether what cannot be continued is to be replaced.
            source: what the run reads.

        Returns:
            The record of the run that is to be continued; None for a new one.

        Raises:
            RunError: it cannot be written, another process uses it, it holds a finished run (or an
                unfinished one of another config or text) and `overwrite` is not set.
        """
        self._is_new = not self.path.exists()
        check_writable(self.path)
        self._acquire()
        try:
            return self._judge(config, overwrite, source)
        except BaseException:
            self.release()
            raise

    def _judge(
        self, config: dict[str, Any], overwrite: bool, source: ActivationSource | None
    ) -> dict[str, Any] | None:
        record = self.read()
        if record is None:
            self._refuse_files_of_no_run()
            return None
        before = with_new_options(record["config"], config)
        changed = differing_keys(comparable(before), comparable(config))
        other_data = None
        if source is not None and source.changed == "refuse":
            other_data = self.changes_of_source(source, record, config)
        self._is_longer = is_longer = extends(record["config"], config)
        if is_longer:
            changed = [key for key in changed if not key.startswith(f"{LENGTH}:")]
        is_finished = record["status"] == "finished" and not is_longer
        cannot_go_on = is_finished or changed or other_data
        self._is_to_be_cleared = overwrite and bool(cannot_go_on)
        if self._is_to_be_cleared:
            return None
        if is_finished:
            raise RunError(
                f"{self.path}: holds a finished run; choose another hydra.run.dir, overwrite=true, "
                f"or a larger {LENGTH} to train it further"
            )
        if changed:
            raise RunError(
                f"{self.path}: holds a run with other options ({'; '.join(changed[:3])}); choose "
                "another hydra.run.dir or overwrite=true"
            )
        if source is not None and other_data:
            raise RunError(
                f"{self.path}: holds a run of other data ({other_data}); choose another "
                f"hydra.run.dir, overwrite=true, or {source.reads}.changed=accept to go on all the "
                "same"
            )
        return record

    def changes_of_source(
        self, source: ActivationSource, record: dict[str, Any] | None, config: dict[str, Any]
    ) -> str | None:
        """Return in words how `source` differs from that of the checkpoint to be continued.

        None: not at all, or there is none.
        """
        checkpoints = Checkpoints(self.path / CHECKPOINTS).files()
        if record is None or not checkpoints or config["trainer"]["resume"] != "auto":
            return None
        return changes_of(source, config, record, self.path)

    def make_ready(self) -> None:
        """Remove what a killed writer has left, and a run that is to be overwritten.

        Raises:
            RunError: something of that run cannot be removed; then all of it is still there.
        """
        remove_temporaries(self.path)
        if self._is_to_be_cleared:
            self.clear()
            return
        self.set_aside_misfits()
        if self._is_longer:
            self.set_aside_derived()

    def set_aside_misfits(self) -> None:
        """Rename what is in the place of a file or a folder of the run and is something else."""
        for name in ARTIFACTS:
            path = self.path / name
            fits = path.is_dir() if name in FOLDERS else path.is_file()
            if os.path.lexists(path) and not fits:
                kind = "folder" if name in FOLDERS else "file"
                log.warning("%s is not a %s: kept as %s", path, kind, set_aside(path).name)

    def set_aside_derived(self) -> None:
        """Rename what is of the SAE that is now trained further, and would be taken for its own."""
        for path in (self.path / name for name in DERIVED):
            if os.path.lexists(path):
                aside = set_aside(path, EARLIER)
                log.warning("%s is of the shorter run: kept as %s", path, aside.name)

    def _refuse_files_of_no_run(self) -> None:
        """Without a record nothing tells whose files these are: neither continue nor delete."""
        found = [name for name in ARTIFACTS if (self.path / name).exists()]
        if found:
            raise RunError(
                f"{self.path}: holds {', '.join(found)} but no {RECORD} of a run; choose another "
                "hydra.run.dir or move them away"
            )

    def clear(self) -> None:
        """Delete what a run leaves, and nothing else: of a link not what it leads to.

        The record goes last, so that a run of which a part is left is known as such.
        """
        try:
            remove_all(self.path, ARTIFACTS)
        except OSError as error:
            name = Path(str(error.filename)).name
            raise RunError(f"{self.path / name}: cannot be removed ({error.strerror})") from error

    def read(self) -> dict[str, Any] | None:
        """Return the record, or None where there is no run.

        Raises:
            RunError: it is damaged.
        """
        try:
            return {**schemas.read(self.path / RECORD, schemas.RunRecord)}
        except FileNotFoundError:
            return None
        except RunError as error:
            raise RunError(
                f"{error}; choose another hydra.run.dir or move the folder away"
            ) from error

    def write(self, record: dict[str, Any]) -> None:
        """Replace the record."""
        write_atomically(self.path / RECORD, json.dumps(record, indent=2) + "\n")

    def release(self) -> None:
        """Let others use the folder."""
        self._lock.release()
        if self._is_new:
            remove_if_empty(self.path)


def check_writable(path: Path) -> None:
    """Create the folder if it is missing and write a file in it.

    Raises:
        RunError: one of the two fails.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise RunError(
            f"hydra.run.dir={path}: must be a folder that can be written ({error.strerror})"
        ) from error


def comparable(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a config that decides what a run computes, flat."""
    kept = {key: value for key, value in config.items() if key not in FREE_TO_CHANGE}
    for group, free in FREE_IN.items():
        if isinstance(options := kept.get(group), dict):
            kept[group] = {key: value for key, value in options.items() if key not in free}
    return flatten(kept)


def extends(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether a config is that of a longer run."""
    lengths = [flatten(config).get(LENGTH) for config in (old, new)]
    before, now = (n if isinstance(n, (int, float)) else math.nan for n in lengths)
    return now > before


def differing_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`key: old → new` for everything that differs."""
    keys = sorted(old.keys() | new.keys())
    return [f"{k}: {old.get(k)} → {new.get(k)}" for k in keys if old.get(k) != new.get(k)]


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
