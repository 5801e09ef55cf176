"""Launchers and sweepers for Hydra to find; the work is done in `temporal_sae.sweep`.

Hydra imports this module at every start, a `--help` included, and knows only classes that are
defined below `hydra_plugins`. So the classes here are names for those of `temporal_sae.sweep`,
which are imported once a sweep begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _Named:
    """Makes the object that does the work; options are those of its class, `module:class`."""

    place: str

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make it, and pass on what Hydra gives."""
        module, name = self.place.split(":")
        self.real = getattr(import_module(module), name)(**self.options)
        self.real.setup(hydra_context=hydra_context, task_function=task_function, config=config)


class _NamedSweeper(_Named, Sweeper):
    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep."""
        return self.real.sweep(arguments)


class _NamedLauncher(_Named, Launcher):
    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs."""
        return self.real.launch(job_overrides, initial_job_idx)


class GridSweeper(_NamedSweeper):
    """`hydra/sweeper=grid`: every combination of the values."""

    place = "temporal_sae.sweep.grid:GridSweeper"


class BayesSweeper(_NamedSweeper):
    """`hydra/sweeper=bayes`: a search for the best objective."""

    place = "temporal_sae.sweep.bayes:BayesSweeper"


class LocalLauncher(_NamedLauncher):
    """`hydra/launcher=local`: jobs side by side on the GPUs or cores of this machine."""

    place = "temporal_sae.sweep.local:LocalLauncher"


class SlurmLauncher(_NamedLauncher):
    """`hydra/launcher=slurm`: every job as a job of a SLURM cluster."""

    place = "temporal_sae.sweep.slurm:SlurmLauncher"
