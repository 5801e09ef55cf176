"""Looking after stores: which there are, whether they are whole, and which may go."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from temporal_sae.activations.store.folder import MANIFEST, InUse, StoreFolder
from temporal_sae.activations.store.shards import Damaged
from temporal_sae.errors import RunError, printable
from temporal_sae.files import remove_if_empty, remove_temporaries
from temporal_sae.locks import Timeout

DAY = 86400


@dataclass(frozen=True)
class About:
    """A store below a folder.

    Attributes:
        folder: its files.
        n_bytes: that they take.
        used: when a run has opened it last, or it was begun, in seconds since 1970.
    """

    folder: StoreFolder
    n_bytes: int
    used: float

    def line(self) -> str:
        """Return size, content, age and state in one line."""
        size = f"{self.folder.path}: {self.n_bytes / 2**20:,.0f} MiB"
        try:
            manifest = self.folder.manifest
            facts, key = manifest["metadata"], manifest["key"]
            what = f"{key['num_tokens']:,} rows of {manifest['d_in']} {key['dtype']}"
            where = f"{facts.get('model_name')} {facts.get('hook_name')}"
            width = f"mixed over {self.width():,.0f} rows"
            parts = [size, what, where, width, f"used {ago(self.used)}", self.state()]
        except RunError as error:
            parts = [size, str(error)]
        return printable(" · ".join(parts))

    def state(self) -> str:
        """Return how far it is built, in words."""
        if self.folder.is_finished:
            return "finished"
        n = self.folder.n_segments
        how = "being built" if self.folder.is_being_built else "unfinished"
        return f"{how} ({n - len(self.folder.missing())} of {n} segments)"

    def width(self) -> float:
        """Return how far neighbours in the text lie apart in the store, on average."""
        record = self.folder.segment(0)
        return record["mixing_width"] if record else 0.0


def stores_below(folder: Path) -> list[About]:
    """Return the stores in a folder and below it, that which was used longest ago first.

    Raises:
        RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such folder")
    found = [about(StoreFolder(path.parent)) for path in folder.rglob(MANIFEST)]
    return sorted((a for a in found if a is not None), key=lambda a: (a.used, a.folder.path))


def about(folder: StoreFolder) -> About | None:
    """Return what there is to tell of a store; None for a manifest of something else."""
    try:
        used = (folder.path / MANIFEST).stat().st_mtime
        files = [path.stat().st_size for path in folder.files()]
    except FileNotFoundError:  # deleted just now
        return None
    try:
        _ = folder.manifest
    except RunError:
        if len(files) < 2:
            return None
    except FileNotFoundError:
        return None
    return About(folder, sum(files), used)


def problems_of(folder: StoreFolder) -> Iterator[str]:
    """Read a store as a whole, and yield what is damaged or missing, each in one line.

    Raises:
        RunError: there is no store.
    """
    if not folder.exists:
        raise RunError(f"{folder.path}: holds no store")
    record, is_damaged = None, False
    try:
        record = folder.held_out()
    except RunError as damage:
        is_damaged = True
        yield str(damage)
    for number, shard in enumerate(record["shards"] if record else ()):
        try:
            folder.load_held_out(number, shard)
        except Damaged as damage:
            yield f"{folder.held_out_path(number)}: {damage}"
    for segment in range(folder.n_segments):
        for train in folder.shards(segment) if folder.has(segment) else ():
            try:
                folder.load(train)
            except Damaged as damage:
                yield f"{folder.shard_path(train)}: {damage}"
    missing = folder.missing()
    if missing or (record is None and not is_damaged):
        n = folder.n_segments
        yield f"{folder.path}: is unfinished: {n - len(missing)} of {n} segments are there"


def to_go(
    stores: Sequence[About], keep_bytes: float | None, older_than: float | None
) -> list[About]:
    """Return the stores that have to go.

    Args:
        stores: that which was used longest ago first.
        keep_bytes: the most that may be left.
        older_than: days without use after which one goes.
    """
    left = sum(store.n_bytes for store in stores)
    going = []
    for store in stores:
        is_old = older_than is not None and time.time() - store.used > older_than * DAY
        if is_old or (keep_bytes is not None and left > keep_bytes):
            going.append(store)
            left -= store.n_bytes
    return going


def delete(folder: StoreFolder) -> bool:
    """Delete the files of a store, and nothing else; return False if it has to stay.

    Its manifest goes last, so that what is left after a kill is known as an unfinished store.
    """
    lock = folder.building()
    try:
        lock.acquire()
    except Timeout:
        return False
    try:
        with closing(InUse(folder.path / MANIFEST, alone=True)):
            remove_temporaries(folder.path)
            for path in [*folder.files()]:
                path.unlink()
    except OSError:  # somebody uses it, or nobody can tell, or it is another's
        return False
    finally:
        lock.release()
    remove_if_empty(folder.path)
    return True


def ago(moment: float) -> str:
    """Return how long ago a moment was, in words."""
    days = max(0.0, time.time() - moment) / DAY
    return f"{days:.0f} days ago" if days >= 2 else f"{days * 24:.0f} hours ago"
