"""A store of activations against the disk it lies on: `python benchmarks/store.py`.

A store of random rows is written, and read as training reads it, from the disk: what the system
keeps of the files in memory is dropped before (posix_fadvise). The disk's own speed is that of
reading the same files one after the other into one buffer. Both are measured in turn, so that what
else the machine does concerns both; the share is the median of the pairs.

Processor seconds are those of this process, of which a store takes more than plain reading, since
it checks and copies: where other programs keep the cores busy, they are what limits it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import MIB, device_name

from temporal_sae.activations import ActivationStore
from temporal_sae.activations.store.folder import HELD_OUT, MANIFEST, StoreFolder
from temporal_sae.activations.store.key import DEFAULTS
from temporal_sae.activations.store.shards import write_shard

BUFFER = 8 * MIB


def write_store(path: Path, d_in: int, n_rows: int, dtype: str) -> StoreFolder:
    """Write a store of random rows, without a model."""
    folder = StoreFolder(path)
    key = {**DEFAULTS, "num_tokens": n_rows, "dtype": dtype, "held_out_tokens": 0}
    origin: dict[str, Any] = {"model": {}, "data": {}, "files": None, "text": {}}
    about = {"name": "random", "layer": None, "d_in": d_in, "metadata": {"hook_name": None}}
    folder.write(MANIFEST, {"version": 1, "key": {**origin, **key}, **about})
    layout = folder.layout
    for segment in range(folder.n_segments):
        record = []
        for shard in folder.shards(segment):
            columns = layout.empty(shard.rows)
            columns["x"].copy_(torch.randn(shard.rows, d_in) * 30)
            columns["places"].fill_(0)
            if "scale" in columns:
                columns["scale"].fill_(0.1)
            record.append(write_shard(folder.shard_path(shard), columns))
        place = {"reader": {}, "skip": 0}
        name = folder.record_path(segment).name
        folder.write(name, {"shards": record, "mixing_width": 0.0, "next": place})
    folder.write(f"{HELD_OUT}.json", {"shards": []})
    return folder


def forget(paths: Iterable[Path]) -> None:
    """Drop what the system keeps of files in memory."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


class Seconds(NamedTuple):
    """Time that something takes, on the clock and of the processor."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, work: Callable[[], None]) -> Seconds:
        """Measure a call."""
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return cls(time.perf_counter() - wall, time.process_time() - cpu)


def read_plainly(paths: list[Path]) -> None:
    """Read files one after the other and do nothing with them."""
    buffer = bytearray(BUFFER)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def read_rows(path: Path) -> None:
    """Read all rows once, as a stream does."""
    source = ActivationStore(str(path))
    reader, left = source.reader(seed=0), source.rows_in_pass
    while left > 0:
        left -= len(reader.read())


def cold(paths: list[Path], work: Callable[[], None]) -> Seconds:
    """Measure a call that finds nothing in memory."""
    forget(paths)
    return Seconds.of(work)


def measure(d_in: int, n_rows: int, dtype: str, repeats: int, below: Path) -> dict[str, Any]:
    """Return MiB per second of the disk and of the store."""
    with tempfile.TemporaryDirectory(dir=below) as folder:
        path = Path(folder) / "store"
        path.mkdir()
        write_store(path, d_in, n_rows, dtype)
        paths = sorted(path.glob("*.safetensors"))
        n_mib = sum(p.stat().st_size for p in paths) / MIB
        pairs = [
            (cold(paths, lambda: read_plainly(paths)), cold(paths, lambda: read_rows(path)))
            for _ in range(repeats)
        ]
    disk, store = ([pair[n] for pair in pairs] for n in range(2))
    return {
        "d_in": d_in,
        "dtype": dtype,
        "mib": round(n_mib),
        "disk_mib_per_second": round(n_mib / statistics.median(t.wall for t in disk)),
        "store_mib_per_second": round(n_mib / statistics.median(t.wall for t in store)),
        "share": round(statistics.median(d.wall / s.wall for d, s in pairs), 3),
        "disk_cpu_seconds_per_gib": round(1024 / n_mib * min(t.cpu for t in disk), 2),
        "store_cpu_seconds_per_gib": round(1024 / n_mib * min(t.cpu for t in store), 2),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--d-in", type=int, default=2304)
    parser.add_argument("--rows", type=int, default=262_144)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    results: dict[str, Any] = {"device": device_name(torch.device("cpu")), "stores": []}
    for dtype in options.dtypes:
        found = measure(options.d_in, options.rows, dtype, options.repeats, options.folder)
        print(json.dumps(found))
        results["stores"].append(found)
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
