"""The record of how a run was made."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("temporal_sae", "torch", "transformers", "hydra-core", "numpy")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, revision and machine."""
    return {
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "git_revision": git_revision(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }


def git_revision() -> str | None:
    """Commit of the code, with `+` where files have been changed since; None outside git."""
    folder = Path(__file__).parent
    revision = _git(folder, "rev-parse", "HEAD")
    if not revision:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return revision + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def device_name(device: torch.device) -> str:
    """`cpu` with the processor, or the name of the card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.processor() or platform.machine()})"


def peak_memory(device: torch.device) -> dict[str, int]:
    """Bytes: the largest resident size of this process, and the largest allocation on the card."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = {"host": kilobytes * (1 if sys.platform == "darwin" else 1024)}
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return peak


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
