"""The record of how a run was made and how it has ended."""

from __future__ import annotations

import platform
import resource
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from temporal_sae import distributed, signals
from temporal_sae.errors import EvaluationFailed, InvalidOption, RunError
from temporal_sae.experiment.folder import extends
from temporal_sae.files import write_atomically
from temporal_sae.programs import answer_of
from temporal_sae.training import Preempted, Stopped

PACKAGES = ("temporal_sae", "torch", "transformers", "hydra-core", "numpy")
# Of the processes after the first, as the command line ends the first (see `cli`).
EXIT_CODES = {InvalidOption: 2, RunError: 2, distributed.ProcessLost: 2, EvaluationFailed: 3}
OTHER_ERROR = 1


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
    git = partial(answer_of, "git", seconds=10, folder=Path(__file__).parent)
    revision = (git("rev-parse", "HEAD") or "").strip()
    if not revision:
        return None
    changed = (git("status", "--porcelain", "--untracked-files=no") or "").strip()
    return revision + ("+" if changed else "")


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


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of a run that has not finished."""
    if isinstance(error, (Stopped, KeyboardInterrupt)):
        return signals.exit_code(error)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return EXIT_CODES.get(type(error), OTHER_ERROR)


def lengths_before(continued: dict[str, Any] | None, config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the record on the lengths that a run had before it was extended."""
    if continued is None:
        return {}
    earlier = continued.get("extended_from_tokens", [])
    if extends(continued["config"], config):
        earlier = [*earlier, continued["config"]["trainer"]["num_tokens"]]
    return {"extended_from_tokens": earlier} if earlier else {}


def why_ended(error: BaseException) -> dict[str, str]:
    """Return the record's status and reason of a run that has not finished."""
    if isinstance(error, Preempted):
        return {"status": "stopped", "reason": f"preempted at step {error.step}: queued again"}
    if isinstance(error, SystemExit):  # the handler of SIGUSR2, while no training loop takes it
        return {"status": "stopped", "reason": "preempted: queued again"}
    stopped = isinstance(error, (Stopped, KeyboardInterrupt))
    reason = f"{error}" or ("interrupted" if stopped else type(error).__name__)
    return {"status": "stopped" if stopped else "failed", "reason": reason}


def save_config(cfg: DictConfig, overrides: list[str], folder: Path) -> None:
    """`.hydra/config.yaml` and `.hydra/overrides.yaml`, as Hydra would have written them."""
    (folder / ".hydra").mkdir(exist_ok=True)
    write_atomically(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(cfg))
    write_atomically(
        folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides))
    )
