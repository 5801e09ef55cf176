"""Activations in an array, a tensor or a memory map."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.activations.tables import Table, TableSource
from temporal_sae.errors import RunError

FLOATS = "float16, bfloat16, float32 or float64"
SHAPE = "activations are [rows, d_in] with at least one row and one column"


class ArrayTable:
    """An array or tensor of rows.

    Args:
        x: floats [..., d_in]; its leading dimensions are all rows.

    Raises:
        RunError: it holds no rows of floats, or is masked.
    """

    name, segment_rows = "array", 1

    def __init__(self, x: Any) -> None:
        if isinstance(x, np.ma.MaskedArray):
            whole = "x.data[~np.ma.getmaskarray(x).any(-1)] are the rows without masked numbers"
            raise RunError(f"{self.name}: is masked, and a mask would be lost; {whole}")
        is_float = x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f"
        self.n_rows, self.d_in = check_shape(self.name, x.shape, is_float, x.dtype)
        self._rows = x.reshape(self.n_rows, self.d_in)

    def read(self, start: int, stop: int) -> Float[Tensor, "n d_in"]:
        """Copy some rows."""
        rows = self._rows[start:stop]
        if isinstance(rows, Tensor):
            return rows.detach().to("cpu", torch.float32, copy=True)
        return torch.from_numpy(rows.astype(np.float32))


class ActivationArray(TableSource):
    """Activations in an array, a tensor or a memory map.

    Args:
        x: floats [..., d_in].
        options: of `TableSource`.

    Raises:
        InvalidOption, RunError: an option is out of range, or x holds no rows of floats.
    """

    def __init__(self, x: Any, **options: Any) -> None:
        super().__init__(**options)
        self.table = ArrayTable(x)
        self.name = f"an array of {self.table.n_rows:,} rows"

    def find_tables(self) -> Sequence[Table]:
        """Return the array."""
        return [self.table]

    def describe(self) -> dict[str, Any]:
        """Return the shape, a checksum of a few rows, and which rows are held out."""
        table = self.table
        some = range(0, table.n_rows, max(1, table.n_rows // 16))
        checksum = 0
        for row in some:
            checksum = zlib.crc32(table.read(row, row + 1).numpy().tobytes(), checksum)
        about = {"rows": table.n_rows, "d_in": table.d_in, "checksum": checksum}
        return {**about, **super().describe()}


def check_shape(name: str, shape: Sequence[int], is_float: bool, dtype: Any) -> tuple[int, int]:
    """Return (rows, width) of an array, whose leading dimensions are all rows.

    Raises:
        RunError: it holds no rows of floats.
    """
    if not is_float:
        raise RunError(f"{name}: holds {dtype}; activations are {FLOATS}")
    if len(shape) < 2 or 0 in shape:
        raise RunError(f"{name}: has shape {list(shape)}; {SHAPE}")
    return math.prod(shape[:-1]), shape[-1]
