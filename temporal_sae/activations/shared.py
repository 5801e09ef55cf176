"""One pass of a language model for the readers of several places in it.

Each reader goes through the text at its own pace, from wherever it is set. The first that comes to
a piece of text has its rows computed for all; those of the others wait until they come there. So
readers that are together cost one pass, and readers that are apart one each.

What waits is bounded. For a reader there are at most so many rows as fill its buffer, beside those
that are read ahead, because readers that begin fill their buffers one after the other. When there
are more, the oldest are forgotten, and computed again if they are asked for after all. The rows of
a reader that nobody has any more are forgotten, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from threading import Lock
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from temporal_sae.activations.prefetch import Chunk
from temporal_sae.activations.rows import Rows


class ReaderOfPlaces(Protocol):
    """A reader that can give the rows of several places of a language model at once."""

    def read_at(self, hook_names: Sequence[str]) -> dict[str, Rows]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class SharedPasses:
    """Passes over a text whose rows several readers take; they may be in several threads.

    Args:
        reader: reads the text; nobody else uses it.
        most_rows: that wait for a reader.
        device: where the reader computes.
    """

    def __init__(self, reader: ReaderOfPlaces, most_rows: int, device: torch.device) -> None:
        self._reader, self._most_rows, self.device = reader, most_rows, device
        self._begin = reader.state_dict()
        self._at: str | None = position_of(self._begin)  # where the reader is, if that is known
        self._waiting: WeakKeyDictionary[PlaceReader, dict[str, Chunk]] = WeakKeyDictionary()
        self._lock = Lock()

    def reader(self, hook_name: str) -> PlaceReader:
        """Return a reader of one place, at the beginning of the text."""
        reader = PlaceReader(self, hook_name, self._begin)
        with self._lock:
            self._waiting[reader] = {}
        return reader

    def chunk(self, reader: PlaceReader) -> Chunk:
        """Return the rows for which a reader's turn has come, and the state behind them."""
        position = position_of(reader.state)
        with self._lock:
            waiting = self._waiting[reader]
            return waiting.pop(position) if position in waiting else self._read(reader, position)

    def _read(self, reader: PlaceReader, position: str) -> Chunk:
        """Read what follows a position; let the rows wait for all other readers."""
        if self._at != position:
            self._reader.load_state_dict(reader.state)
        self._at = None  # after an error it would not be known
        others = [(r, w) for r, w in self._waiting.items() if r is not reader and position not in w]
        rows = self._reader.read_at(sorted({r.hook_name for r, _ in others} | {reader.hook_name}))
        behind = self._reader.state_dict()
        self._at = position_of(behind)
        is_cuda = self.device.type == "cuda"
        ready = torch.cuda.current_stream(self.device).record_event() if is_cuda else None
        for other, waiting in others:
            waiting[position] = Chunk(rows[other.hook_name], behind, ready=ready)
            self._forget(waiting)
        return Chunk(rows[reader.hook_name], behind, ready=ready)

    def _forget(self, waiting: dict[str, Chunk]) -> None:
        """Forget the oldest chunks beyond the bound."""
        n_rows = sum(chunk.n_rows for chunk in waiting.values())
        while n_rows > self._most_rows:
            n_rows -= waiting.pop(next(iter(waiting))).n_rows


class PlaceReader:
    """Rows at one place of a language model, in the order of the text.

    Args:
        shared: computes them.
        hook_name: the place.
        state: where the text begins.
    """

    def __init__(self, shared: SharedPasses, hook_name: str, state: dict[str, Any]) -> None:
        self.shared, self.hook_name, self.state = shared, hook_name, state

    def read(self) -> Rows:
        """Return the next rows, computed now or waiting."""
        chunk = self.shared.chunk(self)
        assert chunk.state is not None
        self.state = chunk.state
        return chunk.rows_on_current_stream(self.shared.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the text."""
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self.state = state


def position_of(state: dict[str, Any]) -> str:
    """Return a hash of a reader's state; from equal ones the same rows follow."""

    def content(tensor: Tensor) -> list[Any]:
        values = tensor.contiguous().cpu().numpy()
        return [str(values.dtype), values.shape, sha256(values.tobytes()).hexdigest()]

    return sha256(json.dumps(state, sort_keys=True, default=content).encode()).hexdigest()
