"""What a source of text is; `text_files` and `hub` have those there are.

A source yields the documents of one pass over one split, in an order that the seed and the pass
fix. Every document comes with a cursor, and a pass can be started at any cursor, so that training
resumes in the middle of a pass without reading what came before.

Held-out text is disjoint by document: which split a file belongs to depends only on a hash of its
relative path, so it stays the same when other files come or go, and between machines.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

Split = Literal["train", "held_out"]


@runtime_checkable
class TextSource(Protocol):
    """Documents in a reproducible order."""

    def documents(
        self, split: Split, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[int, str]]:
        """Yield (cursor after this document, text) for one pass, beginning at cursor `start`."""
        ...


def hash_fraction(name: str) -> float:
    """A number in [0, 1) that depends on `name` alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def shuffled(items: list[Path], seed: int, epoch: int) -> list[Path]:
    """The items in the order of pass number `epoch`."""
    order = list(items)
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order
