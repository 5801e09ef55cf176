"""The files of a store: what is to be there, and what is.

    manifest.json                what determines the rows; written first, and never again
    held_out.json                held-out shards, once all of them are there
    held_out-N.safetensors       sequences in stream order
    segment-N.json               shards of a segment, once all of them are there
    train-N-M.safetensors        shard M of segment N

A segment is a stretch of the stream whose rows are put in random order as a whole and divided into
shards. Its record says where in the text the next one begins, so that any segment can be computed
again by itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from errno import ENOSPC
from functools import cached_property
from mmap import mmap
from pathlib import Path
from typing import Any, NamedTuple

from temporal_sae import schemas
from temporal_sae.activations.store.shards import HEADER, Columns, Damaged, Layout, read_shard
from temporal_sae.data.sources import hash_of
from temporal_sae.errors import RunError
from temporal_sae.files import write_atomically
from temporal_sae.locks import ProcessLock, is_held
from temporal_sae.schemas import StoredHeldOut, StoredSegment, StoredShard, StoreKey, StoreManifest

MANIFEST = "manifest.json"
HELD_OUT = "held_out"
# What a store consists of, in the order in which it is deleted.
OWN_NAMES = [
    *map(re.compile, (r"segment-\d{6,}\.json", r"train-\d{6,}-\d{4,}\.safetensors")),
    *map(re.compile, (r"held_out\.json", r"held_out-\d{6,}\.safetensors", r"manifest\.json")),
]
LARGEST = 2**40  # rows, and what else counts them: far above any store, far below an overflow
LONGEST = 2**24  # tokens of a sequence
WIDEST = 2**20
MOST_SHARDS = 2**20  # names that are looked for: a manifest may claim any number


class Shard(NamedTuple):
    """A training shard: its segment, its number in it, and its rows."""

    segment: int
    number: int
    rows: int


class StoreFolder:
    """A store that may be finished, unfinished or missing.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock_path = path / ".lock"

    # The plan: all of it follows from the manifest.

    @cached_property
    def manifest(self) -> StoreManifest:
        """The facts that determine the rows.

        Raises:
            FileNotFoundError: there is no store yet.
            RunError: it is not that of a store.
        """
        path = self.path / MANIFEST
        manifest = schemas.read(path, StoreManifest)
        key = manifest["key"]
        at_least = {"num_tokens": 1, "context_size": 2, "shard_rows": 1, "mixing_rows": 1}
        for name, least in {**at_least, "held_out_tokens": 0, "lm_batch_size": 1}.items():
            if not least <= (value := dict(key)[name]) <= LARGEST:  # type: ignore[operator]
                raise RunError(f"{path}: cannot be read (key.{name}={value}: is out of range)")
        if key["context_size"] > LONGEST:
            told = f"key.context_size={key['context_size']}: is out of range"
            raise RunError(f"{path}: cannot be read ({told})")
        if (n := most_shards(key)) > MOST_SHARDS:
            told = f"key: {n:,} shards are claimed, and {MOST_SHARDS:,} are the most"
            raise RunError(f"{path}: cannot be read ({told})")
        if not 1 <= manifest["d_in"] <= WIDEST:
            raise RunError(f"{path}: cannot be read (d_in={manifest['d_in']}: is out of range)")
        return manifest

    @property
    def exists(self) -> bool:
        """Return whether somebody has begun it."""
        return (self.path / MANIFEST).exists()

    @property
    def identity(self) -> str:
        """A hash of all that determines the rows."""
        return hash_of(dict(self.manifest["key"]))

    @property
    def layout(self) -> Layout:
        """Width and dtype of the rows."""
        return Layout(self.manifest["d_in"], self.manifest["key"]["dtype"])

    @property
    def n_segments(self) -> int:
        """The number of segments of the finished store."""
        key = self.manifest["key"]
        return -(-key["num_tokens"] // key["mixing_rows"])

    def shards(self, segment: int) -> list[Shard]:
        """Return the shards of a segment."""
        key = self.manifest["key"]
        left = min(key["mixing_rows"], key["num_tokens"] - segment * key["mixing_rows"])
        starts = range(0, left, key["shard_rows"])
        return [
            Shard(segment, n, min(key["shard_rows"], left - start))
            for n, start in enumerate(starts)
        ]

    # What is there.

    def segment(self, number: int) -> StoredSegment | None:
        """Return the record of a segment, None where it is not there yet.

        Raises:
            RunError: it is damaged.
        """
        path = self.record_path(number)
        try:
            record = schemas.read(path, StoredSegment)
        except FileNotFoundError:
            return None
        if [shard["rows"] for shard in record["shards"]] != [s.rows for s in self.shards(number)]:
            raise RunError(f"{path}: cannot be read (its shards are not those of the manifest)")
        return record

    def held_out(self) -> StoredHeldOut | None:
        """Return the record of the held-out shards, None where they are not there yet.

        Raises:
            RunError: it is damaged.
        """
        path = self.path / f"{HELD_OUT}.json"
        try:
            record = schemas.read(path, StoredHeldOut)
        except FileNotFoundError:
            return None
        most = self.manifest["key"]["held_out_tokens"] + self.manifest["key"]["context_size"]
        if any(shard["rows"] < 0 for shard in record["shards"]) or most < sum(
            shard["rows"] for shard in record["shards"]
        ):
            raise RunError(f"{path}: cannot be read (its shards are not those of the manifest)")
        return record

    def has(self, segment: int) -> bool:
        """Return whether a segment is there."""
        return self.record_path(segment).exists()

    def missing(self) -> list[int]:
        """Return the segments that are not there yet."""
        return [n for n in range(self.n_segments) if not self.has(n)]

    @property
    def is_finished(self) -> bool:
        """Return whether everything is there."""
        return self.exists and self.held_out() is not None and not self.missing()

    @property
    def is_being_built(self) -> bool:
        """Return whether a process builds it now."""
        return is_held(self.lock_path)

    def load(self, shard: Shard, buffer: mmap | None = None) -> Columns:
        """Read a training shard, into a buffer if it fits there.

        Raises:
            Damaged: it is not what its record says.
        """
        try:
            record = self.segment(shard.segment)
        except RunError as error:
            raise Damaged(str(error)) from error
        if record is None:
            raise Damaged("its record is missing")
        about = record["shards"][shard.number]
        return read_shard(self.shard_path(shard), about, self.layout, buffer=buffer)

    @property
    def shard_bytes(self) -> int:
        """The most bytes that the file of a shard has."""
        return self.shards(0)[0].rows * self.layout.row_bytes + HEADER

    def load_held_out(self, number: int, about: StoredShard) -> Columns:
        """Read a held-out shard.

        Raises:
            Damaged: it is not what its record says.
        """
        context_size = self.manifest["key"]["context_size"]
        extra = about["rows"] * context_size  # a sequence has at least one row
        columns = read_shard(self.held_out_path(number), about, self.layout, extra)
        marks = columns.get("sequences")
        fits = marks is not None and marks.ndim == 2 and marks.shape[1] == context_size
        if marks is None or not fits or int(marks.bool().sum()) != about["rows"]:
            raise Damaged("it holds other sequences than its rows are of")
        return columns

    # Names of files: all of them made here, none of them read from a file.

    def record_path(self, segment: int) -> Path:
        """Return the record of a segment."""
        return self.path / f"segment-{segment:06d}.json"

    def shard_path(self, shard: Shard) -> Path:
        """Return the file of a training shard."""
        return self.path / f"train-{shard.segment:06d}-{shard.number:04d}.safetensors"

    def held_out_path(self, number: int) -> Path:
        """Return the file of a held-out shard."""
        return self.path / f"{HELD_OUT}-{number:06d}.safetensors"

    def files(self) -> Iterator[Path]:
        """Yield the files that a store of any state has, and nothing else that is in the folder."""
        for pattern in OWN_NAMES:
            yield from (path for path in self.path.iterdir() if pattern.fullmatch(path.name))

    def write(self, name: str, content: Any) -> None:
        """Write a record, whole once it has its name."""
        write_atomically(self.path / name, json.dumps(content, indent=2) + "\n")

    def building(self) -> ProcessLock:
        """Return the lock of the process that builds.

        Raises:
            RunError: the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be made ({error.strerror})") from error
        return ProcessLock(self.lock_path, timeout=0)

    def use(self) -> InUse:
        """Keep the store from being deleted while the result lives."""
        with suppress(OSError):  # of another's: when it was used last is then not noted
            os.utime(self.path / MANIFEST)
        return InUse(self.path / MANIFEST)


class InUse:
    """A shared lock on a manifest, which `prune` respects, until it is collected or closed.

    Args:
        path: of the manifest.
        alone: fail where anybody else uses it.

    Raises:
        BlockingIOError: somebody does.
    """

    def __init__(self, path: Path, alone: bool = False) -> None:
        # Writable for an exclusive lock, which NFS wants; shared ones do on a read-only disk.
        self._file = open(path, "r+b" if alone else "rb")  # noqa: SIM115
        try:
            # Whoever wants it alone keeps it for a moment, which the others wait for.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        except BlockingIOError:
            self._file.close()
            raise
        except OSError:  # a file system without locks: then nobody is kept from it
            if alone:
                raise

    def close(self) -> None:
        """Let it go."""
        self._file.close()


def most_shards(key: StoreKey) -> int:
    """Return how many training shards a store has, or a few more."""
    in_segment = -(-min(key["mixing_rows"], key["num_tokens"]) // key["shard_rows"])
    return -(-key["num_tokens"] // key["mixing_rows"]) * in_segment


def full_disk(path: Path, error: OSError) -> RunError | OSError:
    """Return one line on a full disk, or the error that it was."""
    if error.errno != ENOSPC:
        return error
    return RunError(
        f"{path}: the disk is full; what is written is whole, so free some space and repeat the "
        "command, or take a smaller activations.num_tokens or activations.dtype=int8"
    )
