"""The folder of compiled kernels, so that they are compiled once and not by every process."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

VARIABLE = "NUMBA_CACHE_DIR"


def ensure_cache() -> None:
    """Give numba a place among the temporary files where it has no other; before it compiles.

    It keeps its cache beside the code, or else in the user's home. Where neither can be written,
    as in a container with read-only code, it refuses to compile at all.
    """
    if any(map(is_writable, places())):
        return
    folder = str(private_folder())
    log.info("compiled kernels are kept in %s: nothing else can be written", folder)
    os.environ[VARIABLE] = folder  # for numba, which is yet to come, and for other processes
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = folder


def places() -> list[Path]:
    """Return the folders in which numba would look, in its order."""
    chosen = os.environ.get(VARIABLE)
    users = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [
        *([Path(chosen)] if chosen else []),
        Path(__file__).parent / "__pycache__",
        Path(users) / "numba",
    ]


def is_writable(folder: Path) -> bool:
    """Return whether a file can be made in a folder, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def private_folder() -> Path:
    """Return a temporary folder of this user alone, since what lies in it is executed.

    One for all processes, unless somebody else has made it first.
    """
    folder = Path(tempfile.gettempdir()) / f"temporal_sae-kernels-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        is_own = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid()
        if is_own and not facts.st_mode & 0o022:
            return folder
    except FileExistsError:
        pass  # a file, or a link to one
    folder = Path(tempfile.mkdtemp(prefix="temporal_sae-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
