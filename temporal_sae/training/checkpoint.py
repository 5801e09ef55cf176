"""Checkpoints: one file each, complete or absent, without pickles.

A checkpoint is a nested dictionary of tensors, numbers, strings and None. The file name carries the
step and the first 16 hex digits of the file's SHA-256, so damage of any kind shows before anything
is loaded.
"""

from __future__ import annotations

import hashlib
import logging
import re
from functools import partial
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from temporal_sae.errors import RunError
from temporal_sae.files import open_regular, write_and_name
from temporal_sae.training.background import Background
from temporal_sae.training.state_file import BLOCK, State, StateFile, from_file

log = logging.getLogger(__name__)

DIGITS = 16
NAME = re.compile(rf"step_(\d{{9,}})\.([0-9a-f]{{{DIGITS}}})\.safetensors")


class Checkpoints:
    """The newest checkpoints of a run.

    One may be written in the background. All that has to do with the folder waits for it, and
    raises the error by which it has failed.

    Args:
        folder: where they are kept.
        keep: how many; older ones are deleted after a newer one is complete.

    Attributes:
        background: the write that is under way.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep, self.background = folder, keep, Background()

    def files(self) -> list[Path]:
        """Finished checkpoint files, newest first."""
        self.background.wait()
        return self._files()

    def _files(self) -> list[Path]:
        found = ((NAME.fullmatch(p.name), p) for p in self.folder.glob("step_*.safetensors"))
        steps = [(int(match[1]), path) for match, path in found if match and path.is_file()]
        return [path for _, path in sorted(steps, reverse=True)]

    def newest_in_words(self) -> str:
        """For a message about another error."""
        self.background.settle()
        files = self._files()
        return f"the last good checkpoint is {files[0].name}" if files else "no checkpoint was made"

    def save(self, step: int, state: State) -> Path:
        """Write a checkpoint; the previous ones stay until it is complete."""
        self.background.wait()
        return self._write(step, StateFile(state))

    def save_in_background(self, step: int, state: State) -> bool:
        """Copy a state, and write it while the caller goes on.

        Returns:
            False, with nothing done, where another one is written like that in this process.
        """
        return self.background.begin(
            lambda: partial(self._write, step, StateFile(state, copied=True))
        )

    def _write(self, step: int, content: StateFile) -> Path:
        def write(file: BinaryIO) -> str:
            return f"step_{step:09d}.{content.write(file)[:DIGITS]}.safetensors"

        self.folder.mkdir(exist_ok=True)
        path = write_and_name(self.folder, write)
        for old in self._files()[self.keep :]:
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


def whole(path: Path, digest: str) -> State | None:
    """Read a checkpoint with this hash in its name; return None if it is damaged."""
    try:
        if _digest_of(path) != digest:
            return None
        return from_file(path)
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError):
        return None  # it has the right hash and is no checkpoint


def _digest_of(path: Path) -> str:
    """Return the digest of a file, read in blocks: it need not fit into memory."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()[:DIGITS]
