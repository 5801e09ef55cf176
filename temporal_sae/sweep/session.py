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

from temporal_sae.commands import launch_command, short
from temporal_sae.errors import InvalidOption, RunError, SweepIncomplete
from temporal_sae.files import remove_if_empty, write_atomically
from temporal_sae.sweep.claims import open_again, settle, tidy
from temporal_sae.sweep.compose import Composer
from temporal_sae.sweep.plan import (
    CONFIGS,
    NOTE,
    Job,
    SweepFolder,
    identity,
    key_of,
    varying_keys,
    what_varies,
)
from temporal_sae.sweep.states import Outcome, States
from temporal_sae.sweep.status import has_finished, read_sweep
from temporal_sae.sweep.table import print_line, print_table, summary

PACKAGE = "temporal_sae"
HYDRAS_NOTE = "multirun.yaml"
REASONS_SHOWN = 3


class Launcher(Protocol):
    """Starts the workers of a sweep, and waits for them."""

    def work(self, folder: SweepFolder, numbers: Sequence[int], plugins: Sequence[str]) -> str:
        """Let workers do jobs until none is open.

        Args:
            folder: of the sweep.
            numbers: of the jobs that are to do.
            plugins: modules that the workers import.

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
        self.telling = telling
        self.config, self.launcher = config, launcher
        self.composer = Composer(config, context.config_loader)
        self.folder = SweepFolder(str(config.hydra.sweep.dir))
        self.command = command_in(self.folder.path)
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
                except (InvalidOption, RunError, HydraException, OmegaConfBaseException):
                    if new and not self._has_begun():
                        self._remove()
                    raise
                except (KeyboardInterrupt, SystemExit):
                    self._report()
                    say(f"to continue: {self.command}")
                    raise
                if new and (reason := self._refused()):
                    self._remove()
                    raise RunError(reason)
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

    def announce(self, jobs: Sequence[Job]) -> None:
        """Say where the jobs are, and how many are finished."""
        done = len(jobs) - sum(map(self._is_to_do, jobs))
        already = f", {done} of them finished already" if done else ""
        say(f"{len(jobs)} job{'s' if len(jobs) > 1 else ''} in {self.folder.path}{already}")

    def launch(self, jobs: Sequence[Job]) -> None:
        """Have those of the jobs done that are not finished, and note why others have failed."""
        todo = {job.number: job for job in jobs if self._is_to_do(job)}
        if not todo:
            return
        configs = {number: self._config_of(job) for number, job in todo.items()}
        self._configs.clear()
        plugins = plugins_of(configs.values())
        refuse_unnamed(configs.values(), plugins, self.folder.work / CONFIGS)
        self.folder.write_configs(configs)
        open_again(self.folder, list(todo))
        lost = self.launcher.work(self.folder, list(todo), plugins)
        self.folder.check()
        states = States(self.folder.work)
        for number, job in todo.items():
            outcome = states.read(number).outcome
            if outcome is None:
                outcome = Outcome(lost)
                settle(self.folder, job.folder, number, outcome)
            self.failures.pop(number, None)
            if outcome.reason is not None:
                self.failures[number] = outcome

    def _config_of(self, job: Job) -> dict[str, Any]:
        """Return the config of a job; that of a new one was composed with its name."""
        if job.number in self._configs:
            return self._configs[job.number]
        return self.composer.job(job.number, job.overrides, (), job.folder)[1]

    def _is_to_do(self, job: Job) -> bool:
        finished = has_finished(self.folder.path / job.folder)
        return not finished or "overwrite=true" in [o.lower().lstrip("+") for o in job.overrides]

    def all_refused(self) -> bool:
        """Return whether every job was refused for mistakes that a person can correct."""
        refused = all(outcome.refused for outcome in self.failures.values())
        return bool(self._planned) and len(self.failures) == len(self._planned) and refused

    def _refused(self) -> str | None:
        """Return the reason that no job could start, if none could."""
        if not self.all_refused() or self._has_begun():
            return None
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
        from rich.console import Console

        from temporal_sae.report.sweep_summary import say_last_words
        from temporal_sae.report.sweep_table import collect

        if self.folder.exists():
            tidy(self.folder)
            statuses = read_sweep(self.folder.path, goes_on=False)
            collect(self.folder.path, statuses)
            if any(status.state != "finished" for status in statuses):
                print_table(statuses)
            else:
                say(summary(statuses))
            say_last_words(self.folder.path, statuses, Console())

    def _told_failures(self) -> dict[str, str]:
        varying = varying_keys([job.overrides for job in self._planned.values()])
        told = {}
        for number, outcome in sorted(self.failures.items()):
            what = what_varies(self._planned[number].overrides, varying)
            told[f"job {number}{f' ({what})' if what else ''}"] = str(outcome.reason)
        return told


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


def command_in(folder: Path) -> str:
    """Return the command that this process was started with, for the same folder again."""
    return launch_command(sys.argv[1:], Path(short(folder.absolute())), "hydra.sweep.dir")


def say(line: str) -> None:
    """One line for whoever started the sweep."""
    from rich.console import Console

    print_line(Console(), line)
