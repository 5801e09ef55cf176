"""Tables as JSON inside scripts, which is all that a page from file:// may load.

    a number column     "u2" and the base64 of its array, in the smallest type that holds it
    a column of lists   {"sizes": of each list, "values": of all of them, one after the other}
    a column of strings a JSON list

Everything is ASCII, so that no server's idea of an encoding matters, and no `<` occurs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BITS = 7  # of a number in one byte of a varint
Encoded = str | list[Any] | dict[str, Any]


def script(name: str, content: Any) -> bytes:
    """Return a script that hands content to the page, under the name of its file."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"atlas.take({json.dumps(name)},{text});\n".encode("ascii")


def packed(array: np.ndarray) -> str:
    """Return the type and the base64 of an array of numbers; floats become float32."""
    array = np.ascontiguousarray(array)
    if array.dtype.kind == "b":
        array = array.view(np.uint8)
    kind = np.dtype(np.float32) if array.dtype.kind == "f" else smallest(array)
    data = array.astype(kind.newbyteorder("<"), copy=False).tobytes()
    return f"{kind.kind}{kind.itemsize}" + base64.b64encode(data).decode("ascii")


def smallest(array: np.ndarray) -> np.dtype:
    """Return the smallest type that the page can read and that holds all integers of an array."""
    lo, hi = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for kind in (np.uint8, np.uint16, np.uint32, np.int32):
        if np.iinfo(kind).min <= lo and hi <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.float64)


def table(columns: Mapping[str, pa.ChunkedArray | np.ndarray | Encoded]) -> dict[str, Encoded]:
    """Return columns as the page reads them, without those that hold nothing."""
    found = {}
    for name, column in columns.items():
        encoded = of_arrow(column) if isinstance(column, pa.ChunkedArray) else column
        if isinstance(encoded, np.ndarray):
            encoded = packed(encoded)
        if encoded is not None:
            found[name] = encoded
    return found


def of_arrow(column: pa.ChunkedArray) -> Encoded | None:
    """Return a column of a table, None where all of it is null."""
    if column.null_count == len(column) > 0:
        return None
    if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
        return list(column.to_pylist())
    if not pa.types.is_list(column.type):
        return packed(numbers(column))
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    values = column.combine_chunks().flatten()
    is_text = pa.types.is_string(values.type)
    return lists(lengths, values.to_pylist() if is_text else numbers(values))


def numbers(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column of numbers; null is NaN."""
    if column.null_count:
        column = pc.fill_null(column.cast(pa.float64()), np.nan)
    found: np.ndarray = np.asarray(column)
    return found


def lists(lengths: np.ndarray, values: np.ndarray | Sequence[Any]) -> dict[str, Encoded]:
    """Return a column of lists."""
    data = packed(values) if isinstance(values, np.ndarray) else list(values)
    return {"sizes": packed(lengths), "values": data}


def varints(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers in 7 bits a byte, the lowest first, and how many bytes each takes.

    All bytes of a number but the last have their highest bit set.
    """
    values = values.astype(np.uint32, copy=False)
    lengths = np.ones(len(values), np.uint8)
    for place in range(1, 5):
        lengths += values >= (1 << BITS * place)
    ends = np.cumsum(lengths, dtype=np.int64)
    found = np.empty(ends[-1] if len(ends) else 0, np.uint8)
    for place in range(int(lengths.max(initial=0))):
        has = lengths > place
        goes_on = (lengths[has] > place + 1).astype(np.uint8) << BITS
        digit = (values[has] >> np.uint32(BITS * place)) & np.uint32((1 << BITS) - 1)
        found[ends[has] - lengths[has] + place] = digit.astype(np.uint8) | goes_on
    return found, lengths
