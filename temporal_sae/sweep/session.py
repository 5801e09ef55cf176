"""A sweep while it runs: from the overrides of its jobs to the record of what came of them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any, Protocol

from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from temporal_sae.commands import launch_command, short
from temporal_sae.errors import InvalidOption, RunError, SweepIncomplete
from temporal_sae.files import remove_if_empty, write_atomically
from temporal_sae.overrides.compose import Composer
from temporal_sae.overrides.keys import identity, key_of, varying_keys
from temporal_sae.report.sweep_build import build_sweep_report
from temporal_sae.report.sweep_progress import label, print_table, say, summary
from temporal_sae.report.sweep_summary import say_last_words
from temporal_sae.report.sweep_table import collect
from temporal_sae.sweep.claims import open_again, settle, tidy
from temporal_sae.sweep.plan import CONFIGS, NOTE, Job, SweepFolder
from temporal_sae.sweep.states import Outcome
from temporal_sae.sweep.status import has_finished, read_sweep

PACKAGE = "temporal_sae"
HYDRAS_NOTE = "multirun.yaml"
REASONS_SHOWN = 3


class Launcher(Protocol):
    """Starts the workers of a sweep, and waits for them."""

    def work(self, folder: SweepFolder, numbers: Sequence[int], plugins: Sequence[str]) -> str:
        """Let workers, which import `plugins`, do the jobs of these numbers until none is open.

        Returns:
            The reason that jobs are open all the same, in one line.

        Raises:
            InvalidOption, RunError: no worker can be started.
            KeyboardInterrupt: by a stop signal.
        """


class Session:
    """One sweep at work in its folder.

    Args:
        config: the config of the sweep as a whole.
        context: Hydra's, with its config loader.
        launcher: starts the workers.
        telling: keys that the names of the jobs' folders show; None: those that are not the same
            in all jobs that are planned.
    """

    def __init__(
        self,
        config: DictConfig,
        context: HydraContext,
        launcher: Launcher,
        telling: Collection[str] | None = None,
    ) -> None:
        self.config, self.launcher, self.telling = config, launcher, telling
        self.composer = Composer(config, context.config_loader)
        self.folder = SweepFolder(str(config.hydra.sweep.dir))
        where = Path(short(self.folder.path.absolute()))
        self.command = launch_command(sys.argv[1:], where, "hydra.sweep.dir")
        self.failures: dict[int, Outcome] = {}
        self._planned: dict[int, Job] = {}
        self._configs: dict[int, dict[str, Any]] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Claim the folder, and at the end write down and show how far the sweep is.

        Raises:
            RunError: the folder is another sweep's, or no job could start, for reasons that a
                person can correct; nothing is left behind then, nor after a mistake in a key.
            SweepIncomplete: some jobs have failed.
        """
        try:
            with self.folder.held():
                new = not self.folder.exists()
                try:
                    yield
                    if new and self.all_refused() and not self._has_begun():
                        raise RunError(self._why_refused())
                except (InvalidOption, RunError, HydraException, OmegaConfBaseException):
                    if new and not self._has_begun():
                        self._remove()
                    raise
                except (KeyboardInterrupt, SystemExit):
                    self._report()
                    say(f"to continue: {self.command}")
                    raise
                if self._planned:
                    self._report()
        finally:
            remove_if_empty(self.folder.path)
        if self.failures:
            raise SweepIncomplete(self._told_failures(), self.command)

    def compose(self, wanted: Sequence[Sequence[str]]) -> None:
        """Compose jobs that may come, so that mistakes in keys come before any work."""
        known = {job.identity for job in self.folder.jobs()}
        for overrides in wanted:
            if identity(overrides) not in known:
                self.composer.compose(overrides)

    def plan(self, wanted: Sequence[Sequence[str]], *, all_of_them: bool = True) -> list[Job]:
        """Find or add the jobs with these overrides; see SweepFolder.plan."""
        launcher = str(self.config.hydra.runtime.choices["hydra/launcher"])
        telling = self.telling or varying_keys(wanted)

        def name(number: int, overrides: list[str]) -> str:
            told = [override for override in overrides if key_of(override) in telling]
            found, self._configs[number] = self.composer.job(number, overrides, told)
            return found

        jobs = self.folder.plan(self.command, launcher, wanted, name, all_of_them=all_of_them)
        write_atomically(self.folder.path / HYDRAS_NOTE, OmegaConf.to_yaml(self.config))
        self._planned |= {job.number: job for job in jobs}
        return jobs

    def launch(self, jobs: Sequence[Job]) -> None:
        """Have those of the jobs done that are not finished, and note why others have failed."""
        todo = {job.number: job for job in self.to_do(jobs)}
        if not todo:
            return
        configs = {number: self._config_of(job) for number, job in todo.items()}
        self._configs.clear()
        plugins = plugins_of(configs.values())
        refuse_unnamed(configs.values(), plugins, self.folder.work / CONFIGS)
        self.folder.write_configs(configs)
        open_again(self.folder, todo)
        lost = self.launcher.work(self.folder, list(todo), plugins)
        self.folder.check()
        for number, job in todo.items():
            outcome = self.folder.states.read(number).outcome
            if outcome is None:
                outcome = Outcome(lost)
                settle(self.folder, job, outcome)
            self.failures.pop(number, None)
            if outcome.reason is not None:
                self.failures[number] = outcome

    def to_do(self, jobs: Sequence[Job]) -> list[Job]:
        """Return those of the jobs that are not finished, or are to be done again."""

        def is_done(job: Job) -> bool:
            again = "overwrite=true" in [o.lower().lstrip("+") for o in job.overrides]
            return has_finished(self.folder.path / job.folder) and not again

        return [job for job in jobs if not is_done(job)]

    def _config_of(self, job: Job) -> dict[str, Any]:
        """Return the config of a job; that of a new one was composed with its name."""
        if job.number in self._configs:
            return self._configs[job.number]
        return self.composer.job(job.number, job.overrides, (), job.folder)[1]

    def all_refused(self) -> bool:
        """Return whether every job was refused for mistakes that a person can correct."""
        refused = all(outcome.refused for outcome in self.failures.values())
        return bool(self._planned) and len(self.failures) == len(self._planned) and refused

    def _why_refused(self) -> str:
        reasons = list(dict.fromkeys(str(o.reason) for _, o in sorted(self.failures.items())))
        if len(reasons) == 1:
            return reasons[0]
        shown = reasons[:REASONS_SHOWN]
        more = [f"{len(reasons) - len(shown)} more"] if len(reasons) > len(shown) else []
        return f"none of the {len(self.failures)} jobs can start: {'; '.join(shown + more)}"

    def _has_begun(self) -> bool:
        """Return whether some job has left something."""
        return any((self.folder.path / job.folder).exists() for job in self.folder.jobs())

    def _remove(self) -> None:
        for name in (NOTE, HYDRAS_NOTE):
            (self.folder.path / name).unlink(missing_ok=True)
        rmtree(self.folder.work, ignore_errors=True)

    def _report(self) -> None:
        if self.folder.exists():
            tidy(self.folder)
            statuses = read_sweep(self.folder.path, goes_on=False)
            collect(self.folder.path, statuses)
            build_sweep_report(self.folder.path, statuses, self.folder.read()["command"])
            if any(status.state != "finished" for status in statuses):
                print_table(statuses)
            else:
                say(summary(statuses))
            say_last_words(self.folder.path, statuses, Console())

    def _told_failures(self) -> dict[str, str]:
        varying = varying_keys([job.overrides for job in self._planned.values()])
        return {
            label(number, self._planned[number].overrides, varying): str(outcome.reason)
            for number, outcome in sorted(self.failures.items())
        }


def plugins_of(configs: Iterable[dict[str, Any]]) -> list[str]:
    """Return the modules that the configs of jobs name, in their order.

    Raises:
        InvalidOption: they are not named in a list.
    """
    named: dict[str, None] = {}
    for config in configs:
        plugins = config.get("plugins", [])
        if not isinstance(plugins, list):
            raise InvalidOption("plugins", plugins, "a list of modules, such as [my_module]")
        named |= dict.fromkeys(map(str, plugins))
    return list(named)


def refuse_unnamed(configs: Iterable[dict[str, Any]], plugins: Sequence[str], source: Path) -> None:
    """Refuse classes that no worker will build, before any worker starts.

    Raises:
        RunError: the module of a class of one's own is not among the plugins.
    """
    named = (PACKAGE, *plugins)
    for config in configs:
        modules = [target.rpartition(".")[0] for target in targets_in(config)]
        if not all(any(f"{m}.".startswith(f"{name}.") for name in named) for m in modules):
            # Slow to import: only where something may be wrong.
            from temporal_sae.experiment.components import check_stored, load_plugins

            load_plugins(plugins)
            check_stored(config, plugins, source)


def targets_in(config: Any) -> Iterator[str]:
    """Yield the names of all classes that a config names."""
    values = config.values() if isinstance(config, dict) else config
    for value in values if isinstance(config, (dict, list)) else ():
        yield from targets_in(value)
    if isinstance(config, dict) and isinstance(config.get("_target_"), str):
        yield config["_target_"]
