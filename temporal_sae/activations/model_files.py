"""The files of a language model, on this machine: which there are, and what tells them from others.

No file is read as a whole. Its size and its two ends tell one model from another.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from temporal_sae.assets import BUNDLED
from temporal_sae.data.sources import hash_of
from temporal_sae.files import open_regular

OF_WEIGHTS = (".safetensors", ".bin")  # of a model that has both, the first are read
OF_A_MODEL = (*OF_WEIGHTS, ".json", ".model", ".txt")
END = 65536  # bytes at both ends of a file that tell it from another, with its size


def hash_of_files(model: Mapping[str, Any]) -> str | None:
    """Return a hash over the files of a model; None where they are not on this machine yet.

    Args:
        model: its options; `name` and `revision` say which.
    """
    folder = folder_of(str(model.get("name")), model.get("revision"))
    return None if folder is None else looks_of(files_of(folder, OF_A_MODEL))


def hash_of_weights(name: str, revision: str | None) -> str | None:
    """Return the same over the weights alone, however much else was fetched beside them."""
    if (folder := folder_of(name, revision)) is None:
        return None
    for suffix in OF_WEIGHTS:
        if files := files_of(folder, (suffix,)):
            return looks_of(files)
    return None


def files_of(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files of a folder with some suffixes, in order."""
    return sorted(p for p in folder.iterdir() if p.suffix in suffixes and p.is_file())


def looks_of(paths: Iterable[Path]) -> str:
    """Return a hash over files, by their names."""
    return hash_of({path.name: look_at(path) for path in paths})


def folder_of(name: str, revision: str | None) -> Path | None:
    """Return where the files of a model lie; those of the hub are looked for, and not fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = BUNDLED.get(name) or Path(os.path.expanduser(name))
    if folder.is_dir():
        return folder
    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:  # no name that a model on the hub could have
        return None
    return Path(found).parent if isinstance(found, str) else None


def look_at(path: Path) -> list[int]:
    """Return the size of a file, and a CRC-32 of its first and last bytes."""
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        first = zlib.crc32(file.read(END))
        file.seek(max(0, size - END))
        return [size, zlib.crc32(file.read(END), first)]
