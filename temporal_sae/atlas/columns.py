"""The columns of an atlas's tables, which anybody may have written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from temporal_sae.atlas import examples, latents, pairs, stability
from temporal_sae.errors import RunError

SCHEMAS = {
    "latents.parquet": latents.SCHEMA,
    "pairs.parquet": pairs.SCHEMA,
    "examples.parquet": examples.SCHEMA,
    "tokens.parquet": examples.TOKENS_SCHEMA,
    "overlaps.parquet": stability.SCHEMA,
}


def check_columns(path: Path, table: pa.Table) -> None:
    """Refuse a table of which a column holds something else than its name says.

    Raises:
        RunError: see above.
    """
    schema = SCHEMAS[path.name]
    for name in set(table.column_names) & set(schema.names):
        found, expected = table.schema.field(name).type, schema.field(name).type
        if kind_of(found) not in (kind_of(expected), "null"):
            raise RunError(f"{path}: column {name} is of type {found}, must be {expected}")
        if pa.types.is_integer(expected) and table[name].null_count:
            raise RunError(f"{path}: column {name} lacks values")


def require(path: Path, table: pa.Table, names: Iterable[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        RunError: see above.
    """
    for name in names:
        if name not in table.column_names:
            raise RunError(f"{path}: has no column {name}; an atlas of this version has one")


def kind_of(of: pa.DataType) -> str:
    """Return what values of a type are, however many bytes they take."""
    if pa.types.is_list(of):
        return f"list of {kind_of(of.value_type)}"
    if pa.types.is_dictionary(of):
        return kind_of(of.value_type)
    kinds = {"integer": pa.types.is_integer, "float": pa.types.is_floating}
    return next((name for name, is_one in kinds.items() if is_one(of)), str(of))
