"""`hydra/launcher=basic`: one worker, in this process."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hydra.core.utils import configure_log
from omegaconf import DictConfig
from rich.console import Console

from temporal_sae import signals
from temporal_sae.sweep.plan import SweepFolder


class BasicLauncher:
    """Is the only worker itself; the config is that of the sweep as a whole, for the logs."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config

    def work(self, folder: SweepFolder, numbers: Sequence[int], plugins: Sequence[str]) -> str:
        """See `session.Launcher`."""
        with signals.held():
            from temporal_sae.sweep.worker import Worker  # slow to import: not for --help
            from temporal_sae.training import Stopped

        configure_log(self.config.hydra.job_logging, self.config.hydra.verbose)
        worker = Worker(folder, plugins=plugins, place="this process", console=Console())
        try:
            worker.work()
        except Stopped as stopped:
            sys.exit(signals.exit_code(stopped))
        return "it was not done"
