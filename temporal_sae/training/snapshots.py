"""The SAE at several times of a run, each a folder of its own that `load_sae` reads."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path

from torch import nn

from temporal_sae.errors import InvalidOption, check_int
from temporal_sae.files import make_folder_atomically, remove
from temporal_sae.sae import SparseAutoencoder

NAME = re.compile(r"step_(\d{9})")
LOG = "log"


class Snapshots:
    """Kept in `step_000000512/`, …: complete or absent.

    Args:
        folder: where they are kept.
        save: writes an SAE, which is its own to change, of some step into a folder.
    """

    def __init__(self, folder: Path, save: Callable[[SparseAutoencoder, int, Path], None]) -> None:
        self.folder, self.save = folder, save

    def keep(self, step: int, sae: SparseAutoencoder) -> None:
        """Keep the SAE as it is after a step."""
        self.folder.mkdir(exist_ok=True)
        on_cpu = {id(p): nn.Parameter(p.detach().cpu().clone()) for p in sae.parameters()}
        copied = copy.deepcopy(sae, on_cpu)
        make_folder_atomically(
            self.folder / f"step_{step:09d}", lambda folder: self.save(copied, step, folder)
        )

    def rewind(self, step: int) -> None:
        """Delete those of later steps: the run goes on from this one."""
        for path in list(self.folder.glob("step_*")):
            match = NAME.fullmatch(path.name)
            if match and int(match[1]) > step:
                remove(path)


def check_keep_every(value: int | str | None) -> int | str | None:
    """Return the option itself.

    Raises:
        InvalidOption: it is neither null, nor `log`, nor a whole number from 1 on.
    """
    if value is None or value == LOG:
        return value
    try:
        return check_int("keep_every", value, 1)
    except InvalidOption as error:
        allowed = f"null, {LOG}, or a whole number of steps, at least 1"
        raise InvalidOption("keep_every", value, allowed) from error


def is_kept(step: int, keep_every: int | str | None) -> bool:
    """Return whether the SAE after this step is kept; `log` are the powers of 2."""
    if keep_every is None:
        return False
    return step & (step - 1) == 0 if isinstance(keep_every, str) else step % keep_every == 0
