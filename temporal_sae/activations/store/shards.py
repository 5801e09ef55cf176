"""Rows in the dtypes of a store, and the files that hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from mmap import mmap
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from temporal_sae.activations.rows import Rows
from temporal_sae.activations.source import PLACES_BYTES
from temporal_sae.files import open_regular, parse_json, write_atomically
from temporal_sae.schemas import StoredShard

BFLOAT16, FLOAT32, INT8 = "bfloat16", "float32", "int8"
DTYPES = {BFLOAT16: torch.bfloat16, FLOAT32: torch.float32, INT8: torch.int8}
IN_FILES = {
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "I8": torch.int8,
    "I32": torch.int32,
    "U8": torch.uint8,
}
HEADER = 65536  # bytes of a file at most beside its rows
PIECE = 2**22  # large enough for the disk, and still in the cache when its checksum is computed
SCALE_BYTES = 4

Columns = dict[str, Tensor]


class Damaged(Exception):
    """A file of a store is not what its record says; the reason in a few words."""


class Layout(NamedTuple):
    """Width and dtype of the rows of a store."""

    d_in: int
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in a file, with its place."""
        scale = SCALE_BYTES if self.dtype == INT8 else 0
        return self.d_in * DTYPES[self.dtype].itemsize + scale + PLACES_BYTES

    @property
    def read_as(self) -> torch.dtype:
        """The dtype of the rows once they are read."""
        return torch.float32 if self.dtype == INT8 else DTYPES[self.dtype]

    def empty(self, n: int) -> Columns:
        """Return columns for `n` rows."""
        scale = {"scale": torch.empty(n)} if self.dtype == INT8 else {}
        x = torch.empty(n, self.d_in, dtype=DTYPES[self.dtype])
        return {"x": x, "places": torch.empty(n, 3, dtype=torch.int32), **scale}

    def encode(self, rows: Rows) -> Columns:
        """Return the columns of some rows, on the CPU."""
        assert rows.places is not None
        places, x = {"places": rows.places.cpu()}, rows.x.cpu()
        if self.dtype != INT8:
            return {"x": x.to(DTYPES[self.dtype]), **places}
        x = x.float()
        scale = x.abs().amax(1) / 127
        whole = (x / torch.where(scale > 0, scale, 1.0)[:, None]).round().to(torch.int8)
        return {"x": whole, "scale": scale, **places}

    def decode(self, columns: Columns, which: slice) -> Rows:
        """Return a copy of some of the rows."""
        x: Float[Tensor, "n d_in"] = copy_of(columns["x"][which])
        if self.dtype == INT8:
            x = x.float() * columns["scale"][which, None]
        return Rows(x, copy_of(columns["places"][which]))

    def fits(self, columns: Columns, n: int) -> bool:
        """Return whether columns that were read are those of `n` rows."""
        with torch.device("meta"):
            expected = self.empty(n)
        return all(
            name in columns
            and columns[name].shape == column.shape
            and columns[name].dtype == column.dtype
            for name, column in expected.items()
        )


def copy_of(rows: Tensor) -> Tensor:
    """Return a copy, made by this thread alone: torch would wait for cores that read shards."""
    return torch.from_numpy(rows.view(torch.uint8).numpy().copy()).view(rows.dtype)


def write_shard(path: Path, columns: Columns) -> StoredShard:
    """Write a file that is whole once it has its name, and return its record."""
    data = save({name: column.contiguous() for name, column in columns.items()})
    write_atomically(path, data)
    return {"rows": len(columns["x"]), "xxh3": xxhash.xxh3_128_hexdigest(data)}


def read_shard(
    path: Path,
    about: StoredShard,
    layout: Layout,
    extra: int = 0,
    buffer: mmap | bytearray | None = None,
) -> Columns:
    """Return the rows of a file that is what its record says.

    Args:
        path: of the file.
        about: its record.
        layout: of its rows.
        extra: bytes that it may have beside them.
        buffer: where to read it, if it fits there.

    Raises:
        Damaged: it is something else.
    """
    most = about["rows"] * layout.row_bytes + extra + HEADER
    # Against damage, not against forgers, who could write another record: SHA-256 would take longer
    # than the disk.
    digest = xxhash.xxh3_128()
    try:
        with open_regular(path) as file:
            n_bytes = file.seek(0, 2)
            if n_bytes > most:
                raise Damaged(f"it has {n_bytes:,} bytes, and its rows take less")
            file.seek(0)
            if buffer is None or len(buffer) < n_bytes:
                buffer = bytearray(n_bytes)
            view = memoryview(buffer)[:n_bytes]
            there = 0
            # Piece by piece, so that the disk reads on while the checksum is computed.
            while n := file.readinto(view[there : there + PIECE]):  # type: ignore[attr-defined]
                digest.update(view[there : there + n])
                there += n
    except FileNotFoundError as error:
        raise Damaged("it is missing") from error
    except OSError as error:
        raise Damaged(f"it cannot be read ({error.strerror or error})") from error
    if digest.hexdigest() != about["xxh3"]:
        raise Damaged("its checksum is another")
    try:
        columns = tensors_in(view)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise Damaged("it holds no tensors") from error
    if not layout.fits(columns, about["rows"]):
        raise Damaged("it holds other tensors than a store has")
    return columns


def tensors_in(data: memoryview) -> Columns:
    """Return the tensors of a safetensors file without copying them, as its own library would.

    Raises:
        LookupError, TypeError, ValueError, RuntimeError, AttributeError: it is no such file.
    """
    begin = 8 + int.from_bytes(data[:8], "little")
    header = parse_json(bytes(data[8 : min(begin, HEADER)]))
    return {name: tensor_in(data[begin:], about) for name, about in header.items()}


def tensor_in(data: memoryview, about: Mapping[str, Any]) -> Tensor:
    """Return one of them; the bytes that are its own have to be there, as many as it has."""
    dtype, count = IN_FILES[about["dtype"]], math.prod(about["shape"])
    start, stop = about["data_offsets"]
    if not 0 <= start <= stop <= len(data) or stop - start != count * dtype.itemsize:
        raise ValueError(f"bytes {start} to {stop} are no tensor")
    flat = torch.frombuffer(data, dtype=dtype, count=count, offset=start)
    return flat.reshape(about["shape"])
