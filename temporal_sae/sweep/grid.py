"""`hydra/sweeper=grid`: every combination of the values, as an object that can be continued."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.overrides.expand import expand
from temporal_sae.report.sweep_progress import say
from temporal_sae.sweep.basic import BasicLauncher
from temporal_sae.sweep.primary import checked_metric, fix_primary
from temporal_sae.sweep.session import Launcher, Session

LAUNCHERS = ("basic", "local", "slurm")


def checked_params(params: Any) -> dict[str, Any]:
    """`hydra.sweeper.params` by key, empty for None; refused where it has no keys."""
    if params is not None and not isinstance(params, (dict, DictConfig)):
        allowed = "keys with values, such as {seed: '1,2'}"
        raise InvalidOption("hydra.sweeper.params", params, allowed)
    return {str(key): value for key, value in (params or {}).items()}


class GridSweeper(Sweeper):
    """Runs every combination of the values that are given, less what is finished already.

    Args:
        params: values by key, as on the command line, which goes before.
        also: further sweeps in the same folder, each a list of overrides.
        primary: the metric that decides, fixed before the first job begins.

    Raises:
        InvalidOption: an option is not allowed.
    """

    def __init__(
        self,
        params: dict[str, Any] | None = None,
        also: Sequence[Sequence[str]] | None = None,
        primary: str | None = None,
    ) -> None:
        super().__init__()
        values = checked_params(params)
        self.params = {key: "null" if v is None else str(v) for key, v in values.items()}
        lists = isinstance(also, (list, ListConfig, NoneType))
        if not lists or not all(isinstance(each, (list, ListConfig)) for each in also or ()):
            raise InvalidOption("hydra.sweeper.also", also, "a list of lists of overrides")
        self.primary = None if primary is None else checked_metric(primary)
        self.also = [[str(override) for override in overrides] for overrides in also or ()]

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra gives, and make the launcher.

        Raises:
            InvalidOption, RunError: there is no such launcher, or its options are not allowed.
        """
        self.hydra_context, self.config = hydra_context, config
        self.launcher = launcher_of(config, hydra_context, task_function)

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs that are missing or have failed.

        Raises:
            InvalidOption, RunError: something a person can correct; nothing has been run.
            SweepIncomplete: some jobs have failed, and the others are done.
        """
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        wanted = expand(parser, self.params, self.also, arguments)
        session = Session(self.config, self.hydra_context, self.launcher)
        with session.held():
            jobs = session.plan(wanted)
            if self.primary is not None:
                say(fix_primary(session.folder, self.primary))
            done = len(jobs) - len(session.to_do(jobs))
            already = f", {done} of them finished already" if done else ""
            n_jobs = f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}"
            say(f"{n_jobs} in {session.folder.path}{already}")
            session.launch(jobs)


def launcher_of(config: DictConfig, context: HydraContext, function: TaskFunction) -> Launcher:
    """Return the launcher that a config names.

    Raises:
        InvalidOption, RunError: it is somebody else's, or cannot be made.
    """
    from hydra.core.plugins import Plugins

    name = str(config.hydra.runtime.choices["hydra/launcher"])
    try:
        launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=function, config=config
        )
    except (TypeError, RuntimeError) as error:
        raise RunError(f"hydra.launcher: none can be made of this ({error})") from error
    if name == "basic":  # Hydra's own default, which runs one composed config after the other
        launcher = BasicLauncher(config)
    if not hasattr(launcher, "work"):
        raise InvalidOption("hydra/launcher", name, f"one of {', '.join(LAUNCHERS)}")
    return cast(Launcher, launcher)
