"""Where metrics go: always `metrics.jsonl`, and Weights & Biases on top where asked for."""

from __future__ import annotations

import hashlib
import json
import logging
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from temporal_sae.files import open_regular, write_atomically
from temporal_sae.schemas import metrics_of

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
Metrics = dict[str, float]
Metadata = Mapping[str, Any]


@runtime_checkable
class MetricsLogger(Protocol):
    """Receives one dictionary of numbers a logged step."""

    def start(self, config: Metadata) -> None: ...
    def rewind(self, step: int) -> None: ...
    def log(self, step: int, metrics: Metrics) -> None: ...
    def finish(self) -> None: ...


class JsonlLogger:
    """One JSON object a line in `metrics.jsonl`.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / METRICS

    def start(self, config: Metadata) -> None:
        """The run keeps its config itself."""

    def rewind(self, step: int) -> None:
        """Forget lines after `step` (which a resumed run writes again) and broken ones."""
        try:
            with open_regular(self.path) as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            lines = []
        known = [(line, metrics_of(line)) for line in lines]
        if broken := sum(metrics is None for _, metrics in known):
            log.warning("%s: %d broken lines are left out", self.path, broken)
        kept = [line for line, metrics in known if metrics and metrics["step"] <= step]
        write_atomically(self.path, b"".join(line + b"\n" for line in kept))

    def log(self, step: int, metrics: Metrics) -> None:
        """Append a line."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def finish(self) -> None:
        """Nothing is held open."""


class NoLogger:
    """Of the processes that have another one to write for them."""

    def start(self, config: Metadata) -> None:
        """Nothing."""

    def rewind(self, step: int) -> None:
        """Nothing."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class WandbLogger(JsonlLogger):
    """`metrics.jsonl` and a Weights & Biases run.

    The run is online where an API key is set (WANDB_API_KEY or `wandb login`), offline otherwise;
    it never asks for one. WANDB_MODE overrides that. A continued run goes on under the same id.

    Args:
        folder: the run's folder; wandb's own files go to `wandb/` in it.
        project: name of the project.
    """

    def __init__(self, folder: str | Path, project: str = "temporal_sae") -> None:
        super().__init__(folder)
        self.project = project
        self._run: Any = None

    def start(self, config: Metadata) -> None:
        """Open the run and record the config."""
        import wandb  # slow to import

        folder = self.path.parent.resolve()
        default_mode = "online" if has_wandb_key() else "offline"
        self._run = wandb.init(
            project=self.project,
            dir=str(folder),
            name=folder.name,
            id=hashlib.sha256(str(folder).encode()).hexdigest()[:16],
            resume="allow",
            config=dict(config),
            mode=cast(Any, os.environ.get("WANDB_MODE") or default_mode),
            settings=wandb.Settings(silent=True),
        )

    def log(self, step: int, metrics: Metrics) -> None:
        """Append a line and send it to the run."""
        super().log(step, metrics)
        self._run.log(metrics, step=step)

    def finish(self) -> None:
        """Close the run."""
        self._run.finish()


def has_wandb_key() -> bool:
    """Whether WANDB_API_KEY is set or `wandb login` has left a key in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False
