"""The contract of a source of text; `text_files` and `hub` have those there are.

A source yields the documents of one pass over one split, in an order that the seed and the pass
fix. Every document comes with a cursor, and a pass can be started at any cursor, so that training
resumes in the middle of a pass without reading what came before.

Held-out text is disjoint by document: which split a file belongs to depends only on a hash of its
path below the folder that is read, so it stays the same when other files come or go, wherever the
folder lies, and between machines.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from temporal_sae.data.documents import Document
from temporal_sae.errors import printable

T = TypeVar("T")
Split = Literal["train", "held_out"]
Cursor = Any  # a JSON value that says how far a pass has come; 0 before its first document
CHANGED = ("refuse", "accept")


class LeftOut:
    """Files or rows that a source does not read, by reason."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = defaultdict(set)

    def add(self, reason: str, name: str) -> None:
        """Note `name`; it counts once, however often it is met."""
        self._names[reason].add(name)

    def reasons(self) -> set[str]:
        """Every reason there has been."""
        return set(self._names)

    def summary(self) -> dict[str, dict[str, Any]]:
        """`count` and an `example` by reason, for run.json."""
        return {
            reason: {"count": len(names), "example": printable(min(names))}
            for reason, names in sorted(self._names.items())
        }


def in_words(left_out: dict[str, dict[str, Any]]) -> str:
    """`28 empty (such as a.txt), 1 not UTF-8 (b.txt)`."""
    return ", ".join(
        counted(about["count"], reason, about["example"]) for reason, about in left_out.items()
    )


def counted(count: int, what: str, example: str) -> str:
    """`28 empty (such as a.txt)`."""
    return f"{count} {what} ({'such as ' if count > 1 else ''}{example})"


class HubRows(NamedTuple):
    """Rows of a data set on the Hugging Face hub.

    Attributes:
        key: of the source's options that has the name.
        name: of the data set.
        subset: which of its configurations.
        split: of it.
    """

    key: str
    name: str
    subset: str | None
    split: str


@runtime_checkable
class TextSource(Protocol):
    """Documents in a reproducible order.

    A class that inherits from it has to write `documents`. A run gives the constructor `folder`,
    the run's own folder, which is never text, or None.

    Attributes:
        changed: whether a run goes on where the text is not that which it has begun with: `refuse`
            or `accept`.
        held_out_advice: what helps where there is too little text for the evaluation, in words.
    """

    changed: str = "refuse"
    held_out_advice: str = "give data.held_out_fraction a larger value, or use eval=none"

    def documents(
        self, split: Split, seed: int, epoch: int, start: Cursor = 0
    ) -> Iterator[tuple[Cursor, str | Document]]:
        """Yield (cursor after this document, it) for one pass, beginning at cursor `start`.

        Most documents are strings; one that is large, or more than its text, is a `Document`.
        """
        ...

    def from_hub(self) -> list[HubRows]:
        """Return what is read from the hub, and not from files of this machine."""
        return []

    def describe(self) -> dict[str, Any]:
        """Return a few JSON facts that tell this text from another, for run.json."""
        return {}

    def listing(self) -> dict[str, Any]:
        """Return a JSON fact for every local file, by its name; another fact is another content."""
        return {}

    def left_out(self) -> dict[str, dict[str, Any]]:
        """Return `count` and `example` of what has been passed over so far, by reason."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a continued run needs besides the cursor."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` has told."""
        return


def hash_fraction(name: str) -> float:
    """Return a number in [0, 1) that depends on `name` alone, which need not be UTF-8."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def hash_of(listing: dict[str, Any]) -> str:
    """SHA-256 of what a source lists."""
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()


def held_out_below(ranks: Collection[float], fraction: float) -> float:
    """Return the limit below which a rank in [0, 1) is held out.

    It is `fraction`; where chance leaves a wanted side empty, the nearest item changes sides.
    """
    if not fraction or not ranks:
        return 0.0
    lowest, highest = min(ranks), max(ranks)
    return min(max(fraction, math.nextafter(lowest, 1.0)), highest)


def shuffled(items: list[T], seed: int, epoch: int) -> list[T]:
    """Return the items in the order of pass number `epoch`."""
    order = list(items)
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order
