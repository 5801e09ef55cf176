"""The folders that nobody has named: each run and sweep gets its own, with a name that fits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from temporal_sae.files import remove_if_empty

LONGEST_NAME = 150  # bytes; file systems allow 255, and a number comes in front

_made: list[Path] = []


class OwnFolder(Callback):
    """Lets runs and sweeps that start in the same second have folders of their own.

    Hydra calls it before the folder of `hydra.run.dir` or `hydra.sweep.dir` is made. One that has
    been named on the command line is left alone: there a run is to be continued, or refused.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Choose the folder of a run."""
        _choose(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Choose the folder of a sweep, for its jobs as well."""
        _choose(config, "hydra.sweep.dir")


def _choose(config: DictConfig, key: str) -> None:
    named = any(word.startswith(f"{key}=") for word in config.hydra.overrides.hydra)
    if named or _is_shared():
        return
    try:
        folder = str(make_new(Path(str(OmegaConf.select(config, key)))))
    except OSError:
        return  # whoever writes there has the words for it
    _made.append(Path(folder).absolute())
    with open_dict(config):
        OmegaConf.update(config, key, folder)
        config.hydra.overrides.hydra.append(
            f"{key}={QuotedString(folder, Quote.single).with_quotes()}"
        )


def _is_shared() -> bool:
    """Return whether other processes of the same run choose as well and have to find the same."""
    return "RANK" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def make_new(path: Path) -> Path:
    """Make a folder that nobody else has made: `path`, or with `_1`, `_2`, … behind its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    candidate, number = path, 0
    while True:
        try:
            candidate.mkdir()
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.name}_{number}")
        else:
            return candidate


def remove_unused() -> None:
    """Remove the folders that were chosen here and into which nothing has been written."""
    while _made:
        remove_if_empty(_made.pop())


def as_folder_name(overrides: str) -> str:
    """Return the overrides of a sweep's job as the name of a folder: no slashes, not too long."""
    name = overrides.replace("/", "_").encode(errors="surrogateescape")
    return name[:LONGEST_NAME].decode(errors="ignore")
