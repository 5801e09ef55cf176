"""Activations of one's own in files: .npy, .safetensors, a column of .parquet.

Nothing is read into memory as a whole but a row group of a parquet file.
"""

from __future__ import annotations

import glob
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from temporal_sae.activations.arrays import FLOATS, check_shape
from temporal_sae.activations.prefetch import AUTO
from temporal_sae.activations.tables import Table, TableSource
from temporal_sae.data.sources import CHANGED, hash_of, in_words
from temporal_sae.errors import InvalidOption, RunError, check_choice, one_line, printable
from temporal_sae.files import open_regular
from temporal_sae.registry import component

log = logging.getLogger(__name__)

HEAD = 65536  # bytes that tell one file from another, with the size
# What the libraries raise about a damaged file; numpy reads the header of a .npy file as Python.
UNREADABLE = (
    *(OSError, ValueError, SafetensorError, RuntimeError, EOFError, MemoryError),
    *(TokenError, SyntaxError, TypeError, LookupError, ArithmeticError),
)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Errors inside become one line with the name of the file."""
    try:
        yield
    except (RunError, InvalidOption):
        raise
    except UNREADABLE as error:
        told = one_line(error) or type(error).__name__
        raise RunError(f"{name}: cannot be read ({told})") from error


class NumpyTable:
    """A .npy file, memory-mapped.

    Args:
        name: for messages.
        path: of the file.
        key: must be None, since there is one array.

    Raises:
        InvalidOption, RunError: it cannot be read, or holds no rows of floats.
    """

    segment_rows = 1

    def __init__(self, name: str, path: Path, key: str | None) -> None:
        if key is not None:
            raise InvalidOption("key", key, f"null, since {name} holds one array")
        self.name = name
        with reading(name):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            is_float = array.dtype.kind == "f" and array.dtype.itemsize <= 8
            self.n_rows, self.d_in = check_shape(name, array.shape, is_float, array.dtype)
            if not array.flags.c_contiguous:
                raise RunError(f"{name}: is stored by columns; save it with np.ascontiguousarray")
            self._rows = array.reshape(self.n_rows, self.d_in)

    def read(self, start: int, stop: int) -> Float[Tensor, "n d_in"]:
        """Copy some rows from the mapping."""
        with reading(self.name):
            return torch.from_numpy(self._rows[start:stop].astype(np.float32))


class SafetensorsTable:
    """A tensor of a .safetensors file.

    Args:
        name: for messages.
        path: of the file.
        key: of the tensor; None: the only one.

    Raises:
        InvalidOption, RunError: it cannot be read, or holds no rows of floats.
    """

    segment_rows = 1

    def __init__(self, name: str, path: Path, key: str | None) -> None:
        self.name = name
        with reading(name):
            self._file = safe_open(path, framework="pt")
            key = one_of("key", key, sorted(self._file.keys()), name)
            self._slice = self._file.get_slice(key)
            dtype = self._slice.get_dtype()
            is_float = dtype in ("F16", "BF16", "F32", "F64")
            shape = self._slice.get_shape()
            if len(shape) > 2:
                raise RunError(f"{name}: {key} has shape {shape}; activations are [rows, d_in]")
            self.n_rows, self.d_in = check_shape(name, shape, is_float, dtype)

    def read(self, start: int, stop: int) -> Float[Tensor, "n d_in"]:
        """Read some rows."""
        with reading(self.name):
            return self._slice[start:stop]


class ParquetTable:
    """A column of lists of numbers; the row group that is read last is kept.

    Args:
        name: for messages.
        path: of the file.
        key: of the column; None: the only one that holds lists of floats.

    Raises:
        InvalidOption, RunError: it cannot be read, or holds no rows of floats.
    """

    def __init__(self, name: str, path: Path, key: str | None) -> None:
        from pyarrow import parquet

        self.name = name
        with reading(name):
            self._file = parquet.ParquetFile(path, memory_map=True)
            lists = [f.name for f in self._file.schema_arrow if is_list_of_floats(f.type)]
            self._column = one_of("key", key, lists, name)
            groups = [self._file.metadata.row_group(n) for n in range(self._file.num_row_groups)]
            lengths = [group.num_rows for group in groups]
            self._starts = [0, *np.cumsum(lengths, dtype=int).tolist()]
            self.n_rows, self.segment_rows = sum(lengths), max([1, *lengths])
            self._held: tuple[int, np.ndarray] | None = None
            self._width: int | None = None  # that of the first row
            first = next((n for n, length in enumerate(lengths) if length), None)
            self._width = 0 if first is None else self._group(first).shape[1]
            _, self.d_in = check_shape(name, (self.n_rows, self._width), True, None)

    def _group(self, number: int) -> np.ndarray:
        from pyarrow import compute

        if self._held is None or self._held[0] != number:
            self._held = None  # freed before the next one is read
            column = self._file.read_row_group(number, columns=[self._column])[self._column]
            flat = column.combine_chunks()
            flat = flat.chunk(0) if hasattr(flat, "chunk") else flat
            widths = compute.fill_null(compute.list_value_length(flat), 0).to_numpy()
            width = int(widths[0]) if self._width is None else self._width
            if (others := np.flatnonzero(widths != width)).size:
                row, other = self._starts[number] + others[0], widths[others[0]]
                told = f"row {row} of {self._column} has {other} numbers, and the first row {width}"
                raise RunError(f"{self.name}: {told}; all rows have one width")
            values = flat.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
            self._held = number, values.reshape(len(flat), width)
        return self._held[1]

    def read(self, start: int, stop: int) -> Float[Tensor, "n d_in"]:
        """Read some rows, with the row groups that they are in."""
        parts = []
        with reading(self.name):
            for number, (first, end) in enumerate(
                zip(self._starts[:-1], self._starts[1:], strict=True)
            ):
                if max(first, start) < min(end, stop):
                    part = self._group(number)[max(start - first, 0) : stop - first]
                    parts.append(torch.from_numpy(part.copy()))
        return torch.cat(parts)


def is_list_of_floats(kind: Any) -> bool:
    """Return whether an arrow type is a list of floating point numbers."""
    import pyarrow as pa

    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_list(kind) for is_list in lists) and pa.types.is_floating(kind.value_type)


def one_of(option: str, given: str | None, there: Sequence[str], name: str) -> str:
    """Return the name that is given, or the only one that there is.

    Raises:
        InvalidOption, RunError: there is none, or more than one to choose from.
    """
    if not there:
        raise RunError(f"{name}: holds no activations, which are {FLOATS}")
    if given in there or (given is None and len(there) == 1):
        return given or there[0]
    raise InvalidOption(option, given, f"one of {printable(', '.join(there))}, which {name} holds")


TABLES: dict[str, Callable[[str, Path, str | None], Table]] = {
    ".npy": NumpyTable,
    ".safetensors": SafetensorsTable,
    ".parquet": ParquetTable,
}
KINDS = ", ".join(TABLES)
# Endings of files that are likely to hold activations all the same.
UNREAD = {".npz", ".pt", ".pth", ".pkl", ".bin", ".h5", ".hdf5", ".arrow", ".feather", ".csv"}


@component("activations")
class ActivationFiles(TableSource):
    """Activations in files of one's own, in the order of their names.

    Args:
        path: a file, a folder (searched recursively) or a glob pattern; .npy arrays and
            .safetensors tensors [rows, d_in], .parquet columns of lists.
        key: the tensor or column; null: the only one that there is.
        held_out_fraction: share of the blocks kept for evaluation, in [0, 1).
        block_rows: rows that stay together: they are held out, or read after each other; null:
            1024, or fewer where there would not be 20 blocks.
        changed: when a run is continued and the files are not those it has begun with, `refuse`,
            or `accept` that it goes on with other rows.
        device: where batches are.
        buffer_tokens, normalize, outliers, outlier_factor, prefetch: see `StreamOptions`.

    Raises:
        InvalidOption: an option is out of range, or there are no such files.
    """

    def __init__(
        self,
        path: str,
        key: str | None = None,
        held_out_fraction: float = 0.1,
        block_rows: int | None = None,
        buffer_tokens: int = 32768,
        normalize: bool = True,
        outliers: str = "keep",
        outlier_factor: float = 10.0,
        prefetch: str | bool | int = AUTO,
        changed: str = "refuse",
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(
            held_out_fraction,
            block_rows,
            device,
            buffer_tokens=buffer_tokens,
            normalize=normalize,
            outliers=outliers,
            outlier_factor=outlier_factor,
            prefetch=prefetch,
        )
        if key is not None and not (isinstance(key, str) and key):
            raise InvalidOption("key", key, "the name of a tensor or column, or null")
        self.path, self.key = path, key
        self.changed = check_choice("changed", changed, CHANGED)
        self.files, self._unread = find_files(path)
        self.name = Path(str(path)).name

    def find_tables(self) -> list[Table]:
        """Map every file."""
        if left_out := self.left_out():
            log.info("activations.path=%s: left out: %s", self.path, in_words(left_out))
        return [TABLES[p.suffix](name, p, self.key) for name, p in self.files.items()]

    def metadata(self) -> dict[str, Any]:
        """Return the path; there is no model."""
        return {**super().metadata(), "dataset_path": str(self.path)}

    def describe(self) -> dict[str, Any]:
        """Number of files, a hash over `listing`, and which rows are held out."""
        about = {"files": len(self.files), "hash": hash_of(self.listing())}
        return {**about, **super().describe()}

    def left_out(self) -> dict[str, dict[str, Any]]:
        """Count files that are likely to hold activations, of kinds that are not read."""
        if not self._unread:
            return {}
        about = {"count": len(self._unread), "example": printable(self._unread[0])}
        return {f"file(s) of another kind than {KINDS}": about}

    def listing(self) -> dict[str, Any]:
        """Size and CRC-32 of the first 64 KiB of every file."""
        return {name: look_at(path) for name, path in self.files.items()}


def look_at(path: Path) -> list[int]:
    """Return size and CRC-32 of the first bytes of a file.

    Raises:
        RunError: it cannot be read.
    """
    with reading(path.name), open_regular(path) as file:
        return [os.fstat(file.fileno()).st_size, zlib.crc32(file.read(HEAD))]


def find_files(path: Any) -> tuple[dict[str, Path], list[str]]:
    """Return the files of known kinds that a path stands for, by their names below its folder.

    Beside them, the names of those that are likely to hold activations too.

    Raises:
        InvalidOption: there are none.
    """
    allowed = f"a file, a folder or a quoted glob of {KINDS} files that exist"
    if not isinstance(path, (str, int, Path)) or not str(path):
        raise InvalidOption("path", path, allowed)
    start = Path(os.path.expanduser(str(path)))
    if start.is_dir():
        root, found = start, list(start.rglob("*"))
    elif os.path.lexists(start):
        root, found = start.parent, [start]
    else:
        found = [Path(name) for name in glob.glob(str(start), recursive=True)]
        root = Path(os.path.commonpath([p.parent for p in found])) if found else start
    names = {p.relative_to(root).as_posix(): p for p in sorted(found) if p.is_file()}
    files = {name: p for name, p in names.items() if p.suffix in TABLES}
    others = [name for name in names if name not in files]
    if not files and others:
        told = f"; {printable(others[0])} is of a kind that is not read, so convert it"
        raise InvalidOption("path", str(path), allowed + told)
    if not files:
        raise InvalidOption("path", str(path), allowed)
    return files, [n for n in others if names[n].suffix.lower() in UNREAD | TABLES.keys()]
