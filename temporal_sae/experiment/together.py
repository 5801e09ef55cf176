"""Several runs in one process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from rich.console import Console

from temporal_sae.experiment import run
from temporal_sae.training import Stopped


@dataclass(frozen=True)
class Request:
    """One job.

    Args:
        cfg: composed, resolved, without `hydra`.
        folder: receives what the run leaves.
        overrides: for the record.
    """

    cfg: DictConfig
    folder: Path
    overrides: tuple[str, ...]


class Ending(NamedTuple):
    """The end of a job: its objective where it has finished, or what has ended it."""

    objective: float | None
    error: Exception | None


def stream_of(cfg: Mapping[str, Any]) -> str:
    """Return what jobs have in common that may be trained together on one stream."""
    groups = {name: cfg.get(name) for name in ("model", "data", "activations", "seed", "device")}
    return json.dumps([groups, cfg["trainer"]["batch_size"]], sort_keys=True)


def run_together(
    requests: Sequence[Request],
    about: Callable[[int], AbstractContextManager[None]] = lambda n: nullcontext(),
    console: Console | None = None,
) -> list[Ending]:
    """Run jobs; one that fails ends alone."""
    endings = []
    for n, request in enumerate(requests):
        try:
            with about(n):
                objective = run.run_experiment(
                    request.cfg, request.folder, list(request.overrides), console
                )
                endings.append(Ending(objective, None))
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other jobs go on
            endings.append(Ending(None, error))
    return endings
