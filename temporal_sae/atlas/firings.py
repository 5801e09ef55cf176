"""All firings of an SAE over a text, on disk: what every table and page of the atlas is made from.

    latents.bin    the active latents of one token after the other, ascending within a token
    values.bin     float32: their activations
    sizes.bin      int32: the active latents of each token
    places.bin     int32 [tokens, 3]: token id, document, position in the document; -1 is unknown
    step_*         how far the files go, and where the reader of the text goes on

The files only grow, and what lies behind the length that was noted last is cut off before more is
added. So a pass that was interrupted goes on where it was, and ends with the same bytes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from temporal_sae.activations import Rows
from temporal_sae.atlas import loops
from temporal_sae.errors import RunError
from temporal_sae.files import open_to_append, remove_temporaries
from temporal_sae.latents import Latents
from temporal_sae.training.checkpoint import Checkpoints

COLUMNS = {"latents": None, "values": np.float32, "sizes": np.int32, "places": np.int32}
LARGEST_SHORT = 2**16  # latents that two bytes can tell apart
PLACES = 3


def type_of_latents(n_latents: int) -> type[np.generic]:
    """Return the smallest type that holds the number of every latent."""
    return np.uint16 if n_latents <= LARGEST_SHORT else np.int32


def damaged(folder: Path, what: str) -> RunError:
    """Return the error for firings that cannot be used."""
    return RunError(f"{folder}: {what}; remove {folder} and begin again")


def noted(folder: Path) -> dict[str, Any]:
    """Return what was noted last of the firings in a folder; nothing where there are none.

    Raises:
        RunError: it is no note of firings.
    """
    note = Checkpoints(folder, keep=1).load_newest()
    if note is None:
        return {}
    lengths = note.get("n_tokens"), note.get("n_firings")
    are_numbers = all(type(n) is int and n >= 0 for n in lengths)
    if not are_numbers or not isinstance(note.get("reader"), dict):
        raise damaged(folder, "what is noted of the firings is no note of this package")
    return note


def check_length(folder: Path, name: str, n_bytes: int) -> None:
    """Refuse a file that has lost what was noted of it.

    Raises:
        RunError: see above.
    """
    path = folder / f"{name}.bin"
    if not path.is_file() or path.stat().st_size < n_bytes:
        raise damaged(folder, f"{path.name} is shorter than it was")


def remove_firings(folder: Path) -> None:
    """Delete the firings in a folder, which goes as well unless it holds anything else."""
    Checkpoints(folder).clear()  # first: no note may promise what is no longer there
    for name in COLUMNS:
        (folder / f"{name}.bin").unlink(missing_ok=True)
    remove_temporaries(folder, below=False)
    with suppress(OSError):
        folder.rmdir()


class Firings:
    """The firings that a folder holds, mapped and not read.

    Args:
        folder: written by `FiringsWriter`.
        n_latents: of the SAE.
        window_size: tokens of a window; those that fill none at the end are left out, so that all
            counts are of the same tokens. Fewer tokens than a window are kept.

    Attributes:
        n_tokens, n_windows, n_firings: that there are.

    Raises:
        RunError: the folder holds none, not all of them, or something else.
    """

    def __init__(self, folder: Path, n_latents: int, window_size: int = 1) -> None:
        self.folder, self.n_latents, self.window_size = folder, n_latents, window_size
        note = noted(folder)
        if not note:
            raise RunError(f"{folder}: holds no firings")
        n_tokens = note["n_tokens"]
        self.n_windows = n_tokens // window_size
        self.n_tokens = self.n_windows * window_size or n_tokens
        sizes = self._mapped("sizes", n_tokens)
        # Whoever has written the files: compiled loops go where they point, without a look.
        is_whole = ((sizes >= 0) & (sizes <= n_latents)).all()
        if not is_whole or sizes.sum(dtype=np.int64) != note["n_firings"]:
            raise damaged(folder, "sizes.bin does not add up")
        self.n_firings = int(self.starts[-1])
        for name, n in {"values": self.n_firings, "places": self.n_tokens * PLACES}.items():
            check_length(folder, name, n * np.dtype(COLUMNS[name]).itemsize)
        if not loops.are_in_order(self.latents, self.starts, n_latents):
            raise damaged(folder, f"latents.bin does not ascend from 0 to {n_latents - 1}")

    def _mapped(self, name: str, n: int, kind: Any = None) -> np.ndarray:
        kind = np.dtype(kind or COLUMNS[name])
        check_length(self.folder, name, n * kind.itemsize)
        if not n:  # which cannot be mapped
            return np.empty(0, kind)
        return np.memmap(self.folder / f"{name}.bin", kind, "r", shape=(n,))

    @cached_property
    def latents(self) -> np.ndarray:
        """Active latents, [firings], ascending within a token."""
        return self._mapped("latents", self.n_firings, type_of_latents(self.n_latents))

    @cached_property
    def values(self) -> np.ndarray:
        """Their activations, float32 [firings]."""
        return self._mapped("values", self.n_firings)

    @cached_property
    def places(self) -> np.ndarray:
        """(token id, document, position) of each token, int32 [tokens, 3]."""
        return self._mapped("places", self.n_tokens * PLACES).reshape(-1, PLACES)

    @cached_property
    def starts(self) -> np.ndarray:
        """The first firing of each token, and the end of all: int64 [tokens + 1]."""
        starts = np.zeros(self.n_tokens + 1, np.int64)
        np.cumsum(self._mapped("sizes", self.n_tokens), out=starts[1:])
        return starts


class FiringsWriter:
    """Adds firings to a folder, after those that are there.

    Args:
        folder: made if it is missing.
        n_latents: of the SAE.
        identity: of the SAE and the text; firings of another pass are begun anew.

    Attributes:
        n_tokens: that are there.
        reader_state: where the reader goes on; None at the beginning.

    Raises:
        RunError: the files are shorter than was noted.
    """

    def __init__(self, folder: Path, n_latents: int, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, identity
        self._kinds = {**COLUMNS, "latents": type_of_latents(n_latents)}
        self._notes = Checkpoints(folder, keep=1)
        folder.mkdir(parents=True, exist_ok=True)
        note = noted(folder)
        if note.get("identity") != identity:
            note = {}
            self._notes.clear()
        self.n_tokens, self.n_firings = note.get("n_tokens", 0), note.get("n_firings", 0)
        self.reader_state: dict[str, Any] | None = note.get("reader")
        for name, n in self._lengths().items():
            n_bytes = n * np.dtype(self._kinds[name]).itemsize
            if n_bytes:  # a longer file would be cut, and a shorter one filled with zeros
                check_length(folder, name, n_bytes)
            descriptor = open_to_append(folder / f"{name}.bin")
            os.ftruncate(descriptor, n_bytes)
            os.close(descriptor)

    def _lengths(self) -> dict[str, int]:
        per_token = {"sizes": self.n_tokens, "places": PLACES * self.n_tokens}
        return {"latents": self.n_firings, "values": self.n_firings, **per_token}

    def add(self, rows: Rows, latents: Latents) -> None:
        """Add the firings of the next tokens; they count once they are noted."""
        indices, order = latents.active_indices().cpu().sort(dim=-1)
        values = latents.values.cpu().gather(-1, order)
        active = indices >= 0
        places = rows.places
        if places is None:
            places = torch.full((len(rows), PLACES), -1, dtype=torch.int32)
        columns = {
            "latents": indices[active],
            "values": values[active],
            "sizes": active.sum(-1),
            "places": places.cpu(),
        }
        for name, column in columns.items():
            self._append(name, column.numpy().astype(self._kinds[name], copy=False))
        self.n_tokens += len(rows)
        self.n_firings += int(active.sum())

    def _append(self, name: str, column: np.ndarray) -> None:
        descriptor = open_to_append(self.folder / f"{name}.bin")
        with os.fdopen(descriptor, "ab") as file:
            file.write(np.ascontiguousarray(column).tobytes())

    def note(self, reader_state: dict[str, Any]) -> None:
        """Note how far the files go; an interruption costs what comes after this."""
        for name in COLUMNS:
            descriptor = open_to_append(self.folder / f"{name}.bin")
            os.fsync(descriptor)
            os.close(descriptor)
        self.reader_state = reader_state
        state = {
            "identity": self.identity,
            "n_tokens": self.n_tokens,
            "n_firings": self.n_firings,
            "reader": reader_state,
        }
        self._notes.save(self.n_tokens, state)
