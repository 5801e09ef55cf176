"""Activations that several runs on one machine need, computed once.

The jobs of a sweep mostly read the same text through the same language model, which on a CPU takes
about half of their time. Whoever starts them side by side names a folder in the environment; each
run looks there before it asks the model, and leaves there what it had to compute. What is found is
what would have been computed: the name of a file is a hash of the model, the place in it, the
tokens, and the number of threads, on which the last bits depend.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from temporal_sae.files import open_regular

VARIABLE = "TEMPORAL_SAE_SHARED_ACTIVATIONS"
LIMIT = 4 * 2**30  # bytes in the folder; what comes later is computed by each run
LEAST_TOKENS = 256  # fewer are computed faster than found
ENDING = ".safetensors"
KEY = "activations"
# Nobody has left it yet, the folder is being deleted, or it is damaged.
UNREADABLE = (OSError, SafetensorError, ValueError, LookupError)


class SharedActivations:
    """A folder that processes read and write at the same time.

    Args:
        folder: where; nothing is kept if it is missing, as when the sweep is over.
        about: whatever the activations depend on besides the tokens.
        limit: bytes that may lie in the folder.
    """

    def __init__(self, folder: Path, about: str, limit: int = LIMIT) -> None:
        self.folder, self.about, self.limit = folder, about, limit

    def find_or_compute(
        self, tokens: Tensor, compute: Callable[[], Tensor], what: str = "activations"
    ) -> Tensor:
        """The activations of `tokens`, on the CPU; the caller may change them.

        Args:
            tokens: ids, int64 [sequences, context].
            compute: gives them, [sequences, context, width], where nobody has left them.
            what: tells them from other tensors of the same tokens.
        """
        if tokens.numel() < LEAST_TOKENS:
            return compute()
        path = self.folder / self._name(tokens, what)
        with suppress(*UNREADABLE), open_regular(path) as file:
            found: Tensor = load(file.read())[KEY]
            if found.shape[:-1] == tokens.shape:
                return found
        acts = compute()
        with suppress(OSError):  # such as a full disk: then it is not kept
            self._leave(path, acts)
        return acts

    def _name(self, tokens: Tensor, what: str) -> str:
        facts = f"{what} {self.about} {tuple(tokens.shape)} {torch.get_num_threads()} "
        digest = hashlib.sha256(facts.encode() + tokens.cpu().numpy().tobytes())
        return digest.hexdigest() + ENDING

    def _leave(self, path: Path, acts: Tensor) -> None:
        """Write a file that is whole once it has its name; it need not survive the machine."""
        if (
            sum(entry.stat().st_size for entry in os.scandir(self.folder)) + acts.nbytes
            > self.limit
        ):
            return
        handle, temporary = tempfile.mkstemp(dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(save({KEY: acts.contiguous()}))
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def shared_activations(about: str, device: torch.device) -> SharedActivations | None:
    """The folder that the environment names, for a model on the CPU; None: there is none."""
    folder = os.environ.get(VARIABLE)
    return SharedActivations(Path(folder), about) if folder and device.type == "cpu" else None
