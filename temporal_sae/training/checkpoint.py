"""Checkpoints: one file each, complete or absent, without pickles.

A checkpoint is a nested dictionary of tensors, numbers, strings and None. Tensors go into a
safetensors file under their path (`optimizer/exp_avg/0`), the rest into its header as JSON. The
file name carries the step and the first 16 hex digits of the file's SHA-256, so damage of any kind
shows before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from temporal_sae.errors import RunError
from temporal_sae.files import open_regular, write_atomically

log = logging.getLogger(__name__)

DIGITS = 16
BLOCK = 2**24  # bytes read at once
NAME = re.compile(rf"step_(\d{{9,}})\.([0-9a-f]{{{DIGITS}}})\.safetensors")
State = dict[str, Any]


class Checkpoints:
    """The newest checkpoints of a run.

    Args:
        folder: where they are kept.
        keep: how many; older ones are deleted after a newer one is complete.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def files(self) -> list[Path]:
        """Finished checkpoint files, newest first."""
        found = ((NAME.fullmatch(p.name), p) for p in self.folder.glob("step_*.safetensors"))
        steps = [(int(match[1]), path) for match, path in found if match and path.is_file()]
        return [path for _, path in sorted(steps, reverse=True)]

    def newest_in_words(self) -> str:
        """For a message."""
        files = self.files()
        return f"the last good checkpoint is {files[0].name}" if files else "no checkpoint was made"

    def save(self, step: int, state: State) -> Path:
        """Write a checkpoint; the previous ones stay until it is complete."""
        data = to_bytes(state)
        path = self.folder / f"step_{step:09d}.{_digest(data)}.safetensors"
        self.folder.mkdir(exist_ok=True)
        write_atomically(path, data)
        for old in self.files()[self.keep :]:
            old.unlink()
        return path

    def load_newest(self) -> State | None:
        """Return the newest whole checkpoint, or None; remove a damaged one, which is logged."""
        newest = self._newest()
        return None if newest is None else newest[1]

    def newest_whole(self) -> int | None:
        """Return its step, or None; a damaged one is removed as by `load_newest`."""
        newest = self._newest()
        return None if newest is None else newest[0]

    def _newest(self) -> tuple[int, State] | None:
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{self.folder}: must be a folder; move it away")
        for path in self.files():
            match = NAME.fullmatch(path.name)
            if match and (state := whole(path, match[2])) is not None:
                return int(match[1]), state
            log.warning("%s is damaged: removed, looking for an older checkpoint", path.name)
            path.unlink()
        return None

    def clear(self) -> None:
        """An empty folder: a run that starts afresh must not find checkpoints later."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.files():
            path.unlink()


class NoCheckpoints(Checkpoints):
    """Keeps nothing, and has nothing to continue from."""

    def __init__(self) -> None:
        super().__init__(Path(), keep=0)

    def files(self) -> list[Path]:
        """There are none."""
        return []

    def clear(self) -> None:
        """There is nothing to clear."""


def to_bytes(state: State) -> bytes:
    """Serialise a nested dictionary of tensors and JSON values."""
    tensors: dict[str, Tensor] = {}
    rest = _take_tensors(state, "", tensors)
    return save(tensors, metadata={"state": json.dumps(rest)})


def whole(path: Path, digest: str) -> State | None:
    """Read a checkpoint with this hash in its name; return None if it is damaged."""
    try:
        if _digest_of(path) != digest:
            return None
        return from_file(path)
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError):
        return None  # it has the right hash and is no checkpoint


def from_file(path: Path) -> State:
    """Return the nested dictionary that `to_bytes` serialised; tensors on the CPU."""
    with safe_open(path, framework="pt") as file:
        state: State = json.loads((file.metadata() or {})["state"])
        if not isinstance(state, dict):
            raise TypeError("a state is a dictionary")
        for key in file.keys():  # noqa: SIM118 - safe_open is not a mapping
            *parents, last = key.split("/")
            inner = state
            for parent in parents:
                inner = inner[parent]
            inner[last] = file.get_tensor(key)
    return state


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Move the tensors of a nested dictionary to a flat one, returning what remains."""
    rest = {}
    for key, item in value.items():
        inner = f"{path}{key}"
        if isinstance(item, Tensor):
            # A copy: safetensors refuses views that share memory, as windows of one batch do.
            tensors[inner] = item.detach().cpu().clone(memory_format=torch.contiguous_format)
        else:
            rest[key] = (
                _take_tensors(item, f"{inner}/", tensors) if isinstance(item, dict) else item
            )
    return rest


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def _digest_of(path: Path) -> str:
    """Return the digest of a file, read in blocks: it need not fit into memory."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()[:DIGITS]
