"""What a format is, what it gives, and how its files are read: as data, never by unpickling."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from temporal_sae.errors import RunError
from temporal_sae.sae.base import SparseAutoencoder


class Stored(NamedTuple):
    """The arguments of `cls.from_tensors`: the SAE in this package's names and conventions."""

    cls: type[SparseAutoencoder]
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


class Format(NamedTuple):
    """One way of storing an SAE, known by the name of its weights file.

    Attributes:
        name: who writes it.
        weights: the weights file in a folder.
        pattern: the names a weights file may have where it is given itself.
        config: the file beside it that says how to use them.
        read: from the path of the weights; raises RunError for what has no equal here.
    """

    name: str
    weights: str
    pattern: str
    config: str
    read: Callable[[Path], Stored]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RunError: it is missing, damaged or something else.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: cannot be read (it holds no JSON object)")
    return content


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the file, in their own precision.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise unreadable(path, error) from error
    return tensors


def read_pt(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of `torch.save`, in its own precision.

    Raises:
        RunError: it is missing or damaged, or holds anything besides tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # The message of torch advises to unpickle, which may run any code.
        raise RunError(f"{path}: cannot be read (it holds something besides tensors)") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise unreadable(path, error) from error
    if not isinstance(content, Mapping) or not all(torch.is_tensor(t) for t in content.values()):
        raise RunError(f"{path}: cannot be read (it holds something besides tensors)")
    return dict(content)


def as_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor in the precision of this package's parameters."""
    return {name: tensor.float() for name, tensor in tensors.items()}


def unreadable(path: Path, error: Exception) -> RunError:
    """The error for a file that cannot be read, with the first line of the reason."""
    return RunError(f"{path}: cannot be read ({first_line(error)})")


def first_line(error: Exception) -> str:
    """What an error says, in one line; of the system's errors without the path."""
    said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(said).splitlines()[0]


def check_threshold(folder: Path, threshold: Tensor) -> Tensor:
    """Return thresholds with those below 0 at 0, which is the same after a ReLU.

    Raises:
        RunError: none is 0 or above. That is how a threshold which training has not reached yet is
            stored; taken as it is, every positive latent would be active.
    """
    if bool(threshold.isnan().any()) or not bool((threshold >= 0).any()):
        raise never_set(folder, "threshold", threshold)
    return threshold.clamp(min=0)


def never_set(folder: Path, name: str, threshold: Tensor) -> RunError:
    """The error for a threshold that holds no number from training."""
    value = threshold.flatten()[0].item()
    return RunError(
        f"{folder}: {name}={value:g} was never set by training, so nothing says which latents are "
        "active"
    )
