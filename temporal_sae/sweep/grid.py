"""`hydra/sweeper=grid`: every combination of the values, as an object that can be continued."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig

from temporal_sae.errors import InvalidOption, RunError, check_int
from temporal_sae.sweep.expand import expand
from temporal_sae.sweep.session import Session


def checked_params(params: Any) -> dict[str, Any]:
    """`hydra.sweeper.params` by key, empty for None; refused where it has no keys."""
    if params is not None and not isinstance(params, (dict, DictConfig)):
        allowed = "keys with values, such as {seed: '1,2'}"
        raise InvalidOption("hydra.sweeper.params", params, allowed)
    return {str(key): value for key, value in (params or {}).items()}


class GridSweeper(Sweeper):
    """Runs every combination of the values that are given, less what is finished already.

    Args:
        max_batch_size: jobs handed to the launcher at a time; None: all at once.
        params: values by key, as on the command line, which goes before.
        also: further sweeps in the same folder, each a list of overrides.
    """

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: dict[str, Any] | None = None,
        also: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self.max_batch_size = (
            None
            if max_batch_size is None
            else check_int("hydra.sweeper.max_batch_size", max_batch_size, 1)
        )
        values = checked_params(params)
        self.params = {key: "null" if v is None else str(v) for key, v in values.items()}
        lists = isinstance(also, (list, ListConfig, NoneType))
        if not lists or not all(isinstance(each, (list, ListConfig)) for each in also or ()):
            raise InvalidOption("hydra.sweeper.also", also, "a list of lists of overrides")
        self.also = [[str(override) for override in overrides] for overrides in also or ()]

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra gives, and make the launcher."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        try:
            self.launcher: Launcher = Plugins.instance().instantiate_launcher(
                hydra_context=hydra_context, task_function=task_function, config=config
            )
        except (TypeError, RuntimeError) as error:
            raise RunError(f"hydra.launcher: none can be made of this ({error})") from error

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run the jobs that are missing or have failed.

        Returns:
            What the launcher says of each job that it ran.

        Raises:
            InvalidOption, RunError: something a person can correct; nothing has been run.
            SweepIncomplete: some jobs have failed, and the others are done.
        """
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        wanted = expand(parser, self.params, self.also, arguments)
        session = Session(self.config, self.hydra_context, self.launcher)
        session.compose(wanted)
        with session.held():
            jobs = session.plan(wanted)
            session.announce(jobs)
            size = self.max_batch_size or len(jobs)
            batches = [jobs[i : i + size] for i in range(0, len(jobs), size)]
            return [result for batch in batches for result in session.launch(batch)]
