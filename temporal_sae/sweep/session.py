"""A sweep while it runs: from the overrides of its jobs to the record of what came of them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from temporal_sae.commands import launch_command, short
from temporal_sae.errors import InvalidOption, JobRefused, RunError, SweepIncomplete, reason_of
from temporal_sae.files import remove_if_empty, write_atomically, write_json
from temporal_sae.sweep.plan import (
    NOTE,
    Job,
    SweepFolder,
    identity,
    key_of,
    varying_keys,
    what_varies,
)
from temporal_sae.sweep.status import RECORD, has_finished, is_held, read_record, read_sweep

HYDRAS_NOTE = "multirun.yaml"
REASONS_SHOWN = 3


class Session:
    """One sweep at work in its folder.

    Args:
        config: the config of the sweep as a whole.
        context: Hydra's, with its config loader.
        launcher: runs the jobs.
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
        self.config, self.loader, self.launcher = config, context.config_loader, launcher
        self.folder = SweepFolder(str(config.hydra.sweep.dir))
        self.command = command_in(self.folder.path)
        self.failures: dict[int, Exception] = {}
        self._planned: dict[int, Job] = {}
        self._configs: dict[frozenset[str], DictConfig] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Claim the folder, and at the end write down and show how far the sweep is.

        Raises:
            RunError: the folder is another sweep's, or no job could start, for reasons that a
                person can correct; nothing is left behind then.
            SweepIncomplete: some jobs have failed.
        """
        try:
            with self.folder.held():
                new = not self.folder.exists()
                try:
                    yield
                except (InvalidOption, RunError):
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
        """Compose every job that is new, so that mistakes in keys come before any work."""
        known = {job.identity for job in self.folder.jobs()}
        for overrides in wanted:
            if identity(overrides) not in known:
                self._composed(0, overrides)

    def plan(self, wanted: Sequence[Sequence[str]], *, all_of_them: bool = True) -> list[Job]:
        """Find or add the jobs with these overrides; see SweepFolder.plan."""
        launcher = str(self.config.hydra.runtime.choices["hydra/launcher"])
        named = partial(self._name, self.telling or varying_keys(wanted))
        jobs = self.folder.plan(self.command, launcher, wanted, named, all_of_them=all_of_them)
        self._configs.clear()
        write_atomically(self.folder.path / HYDRAS_NOTE, OmegaConf.to_yaml(self.config))
        self._planned |= {job.number: job for job in jobs}
        return jobs

    def announce(self, jobs: Sequence[Job]) -> None:
        """Say where the jobs are, and how many are finished."""
        done = len(jobs) - sum(map(self._is_to_do, jobs))
        already = f", {done} of them finished already" if done else ""
        say(f"{len(jobs)} job{'s' if len(jobs) > 1 else ''} in {self.folder.path}{already}")

    def launch(self, jobs: Sequence[Job]) -> list[JobReturn]:
        """Run those of the jobs that are not finished, and note why others have failed."""
        todo = [job for job in jobs if self._is_to_do(job)]
        if not todo:
            return []
        for job in todo:
            if job.reason is not None:
                self.folder.note_reason(job.folder, None)
        returns = list(self.launcher.launch([overrides_of(j) for j in todo], initial_job_idx=0))
        if not self.folder.exists():
            raise RunError(
                f"{self.folder.path}: the folder was removed while the sweep was going on"
            )
        for job, result in zip(todo, returns, strict=True):
            self._take(job, result)
        return returns

    def _is_to_do(self, job: Job) -> bool:
        finished = has_finished(self.folder.path / job.folder)
        return not finished or "overwrite=true" in [o.lower().lstrip("+") for o in job.overrides]

    def _take(self, job: Job, result: JobReturn) -> None:
        """Note what came of a job; of one that could not say so itself, in its record too."""
        self.failures.pop(job.number, None)
        if result.status == JobStatus.COMPLETED:
            return
        error = result._return_value
        self.failures[job.number] = error
        reason = reason_of(error)
        self.folder.note_reason(job.folder, reason)
        folder = self.folder.path / job.folder
        try:
            record = read_record(folder)
        except RunError:
            return  # its own status is told by that
        if record.get("status") == "running" and not is_held(folder):
            write_json(folder / RECORD, {**record, "status": "failed", "reason": reason})

    def _composed(self, number: int, overrides: Sequence[str]) -> DictConfig:
        """Return a job's config; composed once, since that takes a tenth of a second."""
        name = identity(overrides)
        if name not in self._configs:
            self._configs[name] = self.loader.load_sweep_config(self.config, list(overrides))
        config = self._configs[name]
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        return config

    def _name(self, telling: Collection[str], number: int, overrides: list[str]) -> str:
        """Name of a job's folder: its number and what tells it from the others."""
        config = self._composed(number, overrides)
        told = [override for override in overrides if key_of(override) in telling]
        if told:
            config.hydra.job.override_dirname = ",".join(told)
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:
            return str(OmegaConf.select(config, "hydra.sweep.subdir", throw_on_missing=True))
        finally:
            HydraConfig.instance().cfg = before

    def _refused(self) -> str | None:
        """Return the reason that no job could start, if none could."""
        errors = [error for _, error in sorted(self.failures.items())]
        mistakes = all(isinstance(error, JobRefused) for error in errors)
        if not errors or len(errors) < len(self._planned) or not mistakes or self._has_begun():
            return None
        reasons = list(dict.fromkeys(map(str, errors)))
        if len(reasons) == 1:
            return reasons[0]
        shown = reasons[:REASONS_SHOWN]
        more = [f"{len(reasons) - len(shown)} more"] if len(reasons) > len(shown) else []
        return f"none of the {len(errors)} jobs can start: {'; '.join(shown + more)}"

    def _has_begun(self) -> bool:
        """Return whether some job has left something, or may still do so."""
        jobs = self.folder.jobs()
        return any(job.slurm_job or (self.folder.path / job.folder).exists() for job in jobs)

    def _remove(self) -> None:
        for name in (NOTE, HYDRAS_NOTE):
            (self.folder.path / name).unlink(missing_ok=True)

    def _report(self) -> None:
        from temporal_sae.report.sweep_table import collect
        from temporal_sae.sweep.table import print_table

        if self.folder.exists():
            statuses = read_sweep(self.folder.path)
            collect(self.folder.path, statuses)
            print_table(statuses)

    def _told_failures(self) -> dict[str, str]:
        varying = varying_keys([job.overrides for job in self._planned.values()])
        told = {}
        for number, error in sorted(self.failures.items()):
            what = what_varies(self._planned[number].overrides, varying)
            told[f"job {number}{f' ({what})' if what else ''}"] = reason_of(error)
        return told


def overrides_of(job: Job) -> list[str]:
    """Return a job's overrides, with its folder and the sweep that it belongs to."""
    folder = QuotedString(job.folder, Quote.single).with_quotes()
    return [*job.overrides, f"hydra.sweep.subdir={folder}", "hydra.mode=MULTIRUN"]


def command_in(folder: Path) -> str:
    """Return the command that this process was started with, for the same folder again."""
    return launch_command(sys.argv[1:], Path(short(folder.absolute())), "hydra.sweep.dir")


def say(line: str) -> None:
    """One line for whoever started the sweep."""
    from rich.console import Console

    Console().print(line, markup=False, highlight=False, soft_wrap=True)
