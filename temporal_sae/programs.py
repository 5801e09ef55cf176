"""Programs of others that are asked for something."""

from __future__ import annotations

import subprocess
from pathlib import Path


def answer_of(*command: str, seconds: float, folder: Path | None = None) -> str | None:
    """Return what a program prints; None where there is none, it fails, or takes too long.

    Args:
        *command: the program and its words.
        seconds: it may take.
        folder: in which it works; None: this one.
    """
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
