"""Launchers and sweepers for Hydra to find; the work is done in `temporal_sae.sweep`.

Hydra imports this module at every start, a `--help` included, and knows only classes that are
defined below `hydra_plugins`. So the classes here are names for those of `temporal_sae.sweep`,
which are imported once a sweep begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _Named:
    """Makes the object that does the work; options are those of its class, `module:class`."""

    place: str

    def __init__(self, **options: Any) -> None:
        self.options = options

    def made(self) -> Any:
        """Return an object of the class."""
        module, name = self.place.split(":")
        return getattr(import_module(module), name)(**self.options)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make it, and pass on what Hydra gives."""
        self.real = self.made()
        self.real.setup(hydra_context=hydra_context, task_function=task_function, config=config)


class _NamedSweeper(_Named, Sweeper):
    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep."""
        return self.real.sweep(arguments)


class _NamedLauncher(_Named, Launcher):
    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make the launcher, which needs nothing of Hydra."""
        self.real = self.made()
        self.name = config.hydra.runtime.choices["hydra/launcher"]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        """Refuse the jobs of somebody else's sweeper, which has no folder for workers.

        Raises:
            RunError: always.
        """
        from temporal_sae.errors import RunError

        raise RunError(f"hydra/launcher={self.name}: needs hydra/sweeper=grid or bayes")

    def work(self, *given: Any) -> Any:
        """Let workers do the jobs of a sweep's folder."""
        return self.real.work(*given)


class GridSweeper(_NamedSweeper):
    """`hydra/sweeper=grid`: every combination of the values."""

    place = "temporal_sae.sweep.grid:GridSweeper"


class BayesSweeper(_NamedSweeper):
    """`hydra/sweeper=bayes`: a search for the best objective."""

    place = "temporal_sae.search.bayes:BayesSweeper"


class LocalLauncher(_NamedLauncher):
    """`hydra/launcher=local`: workers side by side on the GPUs or cores of this machine."""

    place = "temporal_sae.sweep.local:LocalLauncher"


class SlurmLauncher(_NamedLauncher):
    """`hydra/launcher=slurm`: workers in an array of jobs of a SLURM cluster."""

    place = "temporal_sae.sweep.slurm:SlurmLauncher"
