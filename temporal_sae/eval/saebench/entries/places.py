"""Folders by the names that sae_bench has for them, which its records hold."""

from __future__ import annotations

from pathlib import Path


def link(name: Path, folder: Path) -> None:
    """Let a folder be found by a name relative to the working directory."""
    for needed in (name.parent, folder):
        needed.mkdir(parents=True, exist_ok=True)
    name.symlink_to(folder.resolve(), target_is_directory=True)
