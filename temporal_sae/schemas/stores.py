"""Schemas of a store of activations."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic knows that of typing from Python 3.12 on


class StoreKey(TypedDict):
    """All that determines which rows a store of activations holds.

    `model` and `data` are the options of their groups, as far as they count; `files` stands for the
    files of the model, `text` is what the text says of itself.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    files: str | None
    text: dict[str, Any]
    num_tokens: int
    held_out_tokens: int
    context_size: int
    prepend_bos: bool
    exclude: list[str]
    lm_batch_size: int
    seed: int
    dtype: Literal["bfloat16", "float32", "int8"]
    shard_rows: int
    mixing_rows: int


class StoreManifest(TypedDict):
    """`manifest.json` of a store of activations."""

    version: Literal[1]
    key: StoreKey
    name: str
    layer: int | None
    d_in: int
    metadata: dict[str, Any]


class StoredShard(TypedDict):
    """A file of rows."""

    rows: int
    xxh3: str


class ReaderPlace(TypedDict):
    """The place at which reading goes on: a reader's state, and rows after it that are done."""

    reader: dict[str, Any]
    skip: int


class StoredSegment(TypedDict):
    """`segment-N.json` of a store: it is there once the shards are that it tells of."""

    shards: list[StoredShard]
    mixing_width: float
    next: ReaderPlace


class StoredHeldOut(TypedDict):
    """`held_out.json` of a store, likewise."""

    shards: list[StoredShard]
