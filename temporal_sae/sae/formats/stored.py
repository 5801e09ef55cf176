"""The contract of a format, and the reading of its files: as data, never by unpickling.

The files are anybody's: they are regular files, take no more memory than they have bytes, and hold
numbers of the shapes and types that the config beside them asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from temporal_sae import files
from temporal_sae.errors import RunError, printable
from temporal_sae.sae.base import SparseAutoencoder

LONGEST_CONFIG = 4 * 2**20  # bytes
LONGEST_REASON = 240  # characters of what a library, or a value from a file, says
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OF_LATENTS = ("b_enc", "threshold", "b_gate", "b_mag", "r_mag")


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


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file that may be anybody's and is a config at most.

    Raises:
        RunError: it is missing, damaged, too long or something else.
    """
    try:
        content = files.read_json(path, LONGEST_CONFIG)
    except FileNotFoundError as error:
        raise unreadable(path, error) from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: cannot be read (it holds no JSON object)")
    return content


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of the file, in their own precision.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        files.open_regular(path).close()
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise unreadable(path, error) from error
    return tensors


def read_pt(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file of `torch.save`, in its own precision.

    Raises:
        RunError: it is missing or damaged, holds anything besides tensors, or would take more
            memory than it has bytes.
    """
    try:
        with files.open_regular(path) as file, ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        size = path.stat().st_size
        if unpacked > size:  # torch packs without compressing
            raise ValueError(f"it unpacks to {unpacked} bytes, more than its own {size}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # The message of torch advises to unpickle, which may run any code.
        raise RunError(f"{path}: cannot be read (it holds something besides tensors)") from error
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        BadZipFile,
        MemoryError,
    ) as error:
        raise unreadable(path, error) from error
    if not isinstance(content, Mapping) or not all(map(_is_plain, content.values())):
        raise RunError(f"{path}: cannot be read (it holds something besides tensors)")
    if sum(tensor.nbytes for tensor in content.values()) > size:
        raise RunError(f"{path}: cannot be read (its tensors are larger than the file)")
    return {str(name): tensor.detach() for name, tensor in content.items()}


def _is_plain(value: Any) -> bool:
    """Return whether it is a tensor that holds its numbers, one after the other."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def as_float32(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor in the precision of this package's parameters.

    Raises:
        RunError: one holds something else than floating-point numbers.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
            kind = str(tensor.dtype).removeprefix("torch.")
            raise RunError(f"{folder}: {shown(name)} holds {kind}, must be one of {kinds}")
    return {name: tensor.float() for name, tensor in tensors.items()}


def transposed(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the matrix of that name, turned; raise ValueError if it is none."""
    if tensors[name].ndim != 2:
        raise ValueError(f"{name}: has {tensors[name].ndim} dimensions, must have 2")
    return tensors[name].T


def check_shapes(d_in: int, d_sae: int, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless tensors have the shapes of an SAE of this size.

    Folding comes later, and would broadcast what does not fit.
    """
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    shapes |= dict.fromkeys(OF_LATENTS, (d_sae,))
    for name in shapes.keys() & tensors.keys():
        if tensors[name].shape != shapes[name]:
            found = tuple(tensors[name].shape)
            raise ValueError(f"{name}: has shape {found}, must have {shapes[name]}")


def check_finite(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise RunError if a number is NaN or infinite, as float32 at the latest."""
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise RunError(f"{folder}: {name} holds numbers that are not finite")


def unreadable(path: Path, error: Exception) -> RunError:
    """Return the error for a file that cannot be read, with the first line of the reason."""
    return RunError(f"{path}: cannot be read ({first_line(error)})")


def first_line(error: Exception) -> str:
    """Return an error's message in one line; of the system's errors without the path."""
    said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return _cut(str(said).splitlines()[0])


def shown(value: Any) -> str:
    """Return a value from a file as it can stand in a message."""
    return _cut(repr(value))


def _cut(text: str) -> str:
    return printable(text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…")


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
    """Return the error for a threshold that holds no number from training."""
    value = threshold.flatten()[0].item()
    return RunError(
        f"{folder}: {name}={value:g} was never set by training, so nothing says which latents are "
        "active"
    )
