"""Read an SAE from a folder, of whichever package wrote it.

Which one that was is told by the files that are there, and how to read them is code in `formats`. A
config only ever chooses among the architectures named there; it never names a class.
"""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path

from temporal_sae.errors import RunError
from temporal_sae.registry import components
from temporal_sae.sae.base import SparseAutoencoder
from temporal_sae.sae.formats import Format
from temporal_sae.sae.formats.stored import check_finite, first_line

LISTED = 5  # subfolders named in an error


def load_sae(path: str | Path, device: str = "cpu") -> SparseAutoencoder:
    """Read an SAE that this package, SAELens, dictionary_learning or sparsify wrote.

    It computes what it computed there, to rounding, in float32 whatever the file's precision.
    Conventions of the others (an input that is not centered, latents compared by their decoder's
    norm, another orientation) are folded into the weights.

    Args:
        path: the folder, or the weights file in it: `sae_weights.safetensors`, `ae.pt` or one of
            the checkpoints of dictionary_learning, `sae.safetensors`.
        device: where the parameters go.

    Raises:
        RunError: there is no SAE or more than one, a file is missing or damaged, the architecture
            is unknown, or a convention (input normalisation, reshaping, a skip connection, a
            threshold that was never set) has no equal here; or its numbers are not finite, not
            floating-point, or of other shapes than its config says.
    """
    found, weights = _find(Path(path))
    try:
        stored = found.read(weights)
        check_finite(weights.parent, stored.tensors)
        sae = stored.cls.from_tensors(stored.config, stored.tensors)
    except KeyError as error:
        raise RunError(f"{weights.parent}: cannot be read ({error} is missing)") from error
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"{weights.parent}: cannot be read ({first_line(error)})") from error
    return sae.to(device)


def _find(path: Path) -> tuple[Format, Path]:
    """Return the format and the weights file that a path means."""
    if os.path.exists(path) and not os.path.isdir(path):
        named = [f for f in components("format") if fnmatch(path.name, f.pattern)]
        if named:
            return named[0], path
        raise RunError(f"{path}: is no weights file; looked for {_looked_for()}")
    if not os.path.isdir(path):
        raise RunError(f"{path}: there is no such file or folder")
    found = [f for f in components("format") if (path / f.weights).exists()]
    if len(found) > 1:
        names = " and ".join(f.weights for f in found)
        raise RunError(f"{path}: holds {names}; give the one that is meant")
    if not found:
        raise RunError(f"{path}: holds no SAE{_below(path)}; looked for {_looked_for()}")
    return found[0], path / found[0].weights


def _below(folder: Path) -> str:
    """Name the folders below that hold an SAE, for those who gave the one above."""
    depths = ("*", "*/*")
    paths = {
        p.parent
        for f in components("format")
        for d in depths
        for p in folder.glob(f"{d}/{f.weights}")
    }
    names = sorted(str(p.relative_to(folder)) for p in paths)
    if not names:
        return ""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f" itself, but its subfolders do: {', '.join(names[:LISTED])}{more}"


def _looked_for() -> str:
    return ", ".join(f"{f.weights} with {f.config} ({f.name})" for f in components("format"))
