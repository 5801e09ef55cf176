"""One run, in the phases that several runs can go through side by side."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from temporal_sae import distributed, signals
from temporal_sae.activations import ActivationSource
from temporal_sae.commands import launch_command, module_command
from temporal_sae.errors import EvaluationFailed, RunError
from temporal_sae.eval import Outcome, Subject, decoder_metrics
from temporal_sae.experiment.build import Cheap, Components, build_cheap, build_components
from temporal_sae.experiment.evaluate import subject_of
from temporal_sae.experiment.folder import CHECKPOINTS, RunFolder
from temporal_sae.experiment.loggers import end_table
from temporal_sae.experiment.memory import NoRoom, Room
from temporal_sae.experiment.record import (
    environment,
    exit_code_of,
    lengths_before,
    peak_memory,
    save_config,
    why_ended,
)
from temporal_sae.experiment.results import (
    cost_section,
    summary_of,
    training_section,
    training_title,
)
from temporal_sae.experiment.source_record import (
    say_what_was_left_out,
    source_section,
    with_what_was_left_out,
    write_listing,
)
from temporal_sae.files import write_json
from temporal_sae.metrics import find_objective
from temporal_sae.report import build_report, print_summary
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.sae.hub import push_to_hub
from temporal_sae.tracker.stability import StabilityMonitor
from temporal_sae.training import (
    About,
    Checkpoints,
    Lane,
    NoLogger,
    Parts,
    ProgressDisplay,
    SharedStream,
    Snapshots,
)
from temporal_sae.training.loggers import Metrics

log = logging.getLogger(__name__)


class Trained(NamedTuple):
    """The end of a training, without its state."""

    step: int
    metrics: Metrics
    seconds: float
    co_activation: dict[str, Any]


class Run:
    """A run and its folder; the methods are called in the order in which they stand here.

    An error in one of them ends the run, and is kept in `error`; none is called after that. Of
    several processes all call the methods, and the first one writes.

    Args:
        cfg: a composed config with the groups of `conf/`.
        folder: receives everything that the run leaves.
        overrides: the command line, for the record.
        about: is entered around all that is done for this run alone.
        when_over: is called once all that the run leaves is written.
        beside_others: whether other runs are done in this process at the same time.

    Attributes:
        error: that has ended it; None while it goes on and when it has finished.
        objective: the metric that `cfg.objective` names, once it has finished.
        wall_seconds: that this process has spent on it, see `shared_time`.
    """

    def __init__(
        self,
        cfg: DictConfig,
        folder: Path,
        overrides: Sequence[str] = (),
        about: Callable[[], AbstractContextManager[Any]] = nullcontext,
        when_over: Callable[[Run], None] = lambda run: None,
        *,
        beside_others: bool = False,
    ) -> None:
        self._beside_others = beside_others
        self.cfg, self.overrides, self.about = cfg.copy(), list(overrides), about
        self._when_over = when_over
        self._is_first = distributed.is_rank_zero()
        # Each process may have got another folder, such as one with the time in its name.
        shared = distributed.on_rank_zero(folder.absolute)
        self.folder = RunFolder(folder if self._is_first else shared)
        self.path = self.folder.path
        self.error: BaseException | None = None
        self.objective: float | None = None
        self.wall_seconds = 0.0
        self.continued: dict[str, Any] | None = None
        self.lane: Lane | None = None
        self._record: dict[str, Any] = {}
        self._is_over = False

    @property
    def goes_on(self) -> bool:
        """True until it has ended, by an error or well."""
        return not self._is_over

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Work for this run only: an error ends it."""
        try:
            with self.about():
                yield
        except NoRoom:
            raise
        except Exception as error:  # noqa: BLE001 - raised by whoever has asked for the run
            signals.obey()  # what a swallowed signal leaves half done may fail in any way
            self.end(error)

    def claim(
        self, source: ActivationSource | None = None, other: ActivationSource | None = None
    ) -> None:
        """Build what takes no time, and make the folder this run's own: both may be refused.

        Args:
            source: of another run with the same options, which this one shares.
            other: that of a run which reads the same language model at another place.
        """
        with self.alone():
            make = partial(build_cheap, self.cfg, self.path, source, other)
            self.cheap: Cheap = distributed.raise_on_all_ranks(make)
            self.cfg.seed = self.cheap.seed  # a whole number, where 1e3 has been typed
            # Before anything slow: a folder that has to be refused is refused at once.
            self.continued = distributed.on_rank_zero(
                lambda: self.folder.claim(self.config, self.cfg.overwrite, self.cheap.source)
            )

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config as plain dictionaries, all resolved."""
        resolved: Any = OmegaConf.to_container(self.cfg, resolve=True)
        return dict(resolved)

    def build(self, stream: Callable[[], SharedStream], room: Room) -> None:
        """Build the components, and write the record of a run that begins.

        Args:
            stream: gives the stream of the run's source, which is open then.
            room: of the runs beside this one.

        Raises:
            NoRoom: it does not fit beside the others; it may be built later.
        """
        with self.alone():
            self.parts: Components = distributed.raise_on_all_ranks(
                lambda: build_components(self.cfg, self.cheap, stream, room)
            )
            distributed.on_rank_zero(self.folder.make_ready)
            if not self._is_first:
                self.parts.logger = NoLogger()
            else:
                self._record = self._describe()
                self._write(self._record)
                save_config(self.cfg, self.overrides, self.path)
                write_listing(self.path, self.parts.source)
            self.lane = self._training()  # now: it begins with the random state that the build left
            self.parts.logger.start(About(self.config, self.overrides, self._beside_others))

    def _describe(self) -> dict[str, Any]:
        """Return the record of a run that begins."""
        source = self.parts.source
        changes = self.folder.changes_of_source(source, self.continued, self.config)
        return {
            "status": "running",
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": self.cfg.seed,
            "command": launch_command(self.overrides),
            "config": self.config,
            "memory_budget_bytes": self.parts.memory,
            "processes": distributed.world_size(),
            **environment(self.parts.device),
            "data": source_section(source, self.config, self.continued, changes),
            **lengths_before(self.continued, self.config),
        }

    def _write(self, record: dict[str, Any]) -> None:
        if self._is_first:
            self.folder.write(with_what_was_left_out(record, self.parts.source))

    def _training(self) -> Lane:
        """Return the training, to be done beside those of other runs."""
        parts = self.parts
        of_training = Parts(
            sae=parts.sae,
            batches=parts.stream,
            tracker=parts.tracker,
            penalty=parts.penalty,
            logger=parts.logger,
            checkpoints=Checkpoints(self.path / CHECKPOINTS),
            stability=StabilityMonitor() if parts.tracker.gives_weights else None,
            snapshots=Snapshots(self.path / "snapshots", partial(save_sae, parts)),
            finetune=parts.finetune,
        )
        return Lane(parts.trainer, of_training, parts.stream, self.about, self.end)

    def enter_training(self, progress: ProgressDisplay) -> Lane:
        """Return the training, to be done beside those of other runs, which shows how far it is."""
        assert self.lane is not None
        self.lane.parts.progress = progress
        return self.lane

    def leave_training(self) -> None:
        """Take over how it has ended; what only training needs is given back."""
        lane, self.lane = self.lane, None
        assert lane is not None
        if lane.error is not None:
            self.end(lane.error)
            return
        with self.alone():
            stability = lane.parts.stability
            found = stability.summary(self.parts.tracker) if stability else {}
            self._trained = Trained(lane.run.step, lane.run.metrics, lane.run.seconds, found)

    def subject(self) -> Subject:
        """Save the SAE, and return it with all that it is judged by."""
        parts, trained = self.parts, self._trained
        saved = self.path / "sae"
        saved.mkdir(exist_ok=True)
        save_sae(parts, parts.sae, trained.step, saved)
        self._results: dict[str, Any] = {
            training_title(parts.source): training_section(
                parts, self.cfg.seed, trained.step, trained.metrics
            ),
            "co-activation results": {**trained.co_activation, **decoder_metrics(parts.sae.W_dec)},
            "cost": cost_section(parts, trained.metrics, trained.seconds),
        }
        return subject_of(parts.sae, saved, parts, self.config, self.path / "eval")

    def conclude(self, evaluated: Outcome, console: Console) -> None:
        """Write what has come out, and print a summary.

        Raises:
            RunError: the objective is not a finite number.
            EvaluationFailed: some evaluation has failed.
        """
        results, parts, trained = self._results | evaluated.sections, self.parts, self._trained
        write_json(self.path / "results.json", results)
        record = self._record
        record |= {
            "training_seconds": trained.seconds,  # of all parts of a continued run
            "tokens_per_second": trained.metrics["tokens"] / max(trained.seconds, 1e-9),
            "peak_memory_bytes": peak_memory(parts.device),
        }
        parts.logger.summarise(summary_of(results))
        if not evaluated.failures:
            self.objective = record["objective"] = find_objective(self.cfg.objective, results)
            parts.logger.summarise({"objective": self.objective})
        record["wall_seconds"] = self.wall_seconds
        self._write(record)
        build_report(self.path)
        parts.logger.tabulate(partial(end_table, self.path, results))
        # Last: a run that is killed before that is not finished, and what it lacks is made again.
        self._write({**record, "status": "failed" if evaluated.failures else "finished"})
        say_what_was_left_out(record, parts.source)
        print_summary(self.path, console)
        if evaluated.failures:
            raise EvaluationFailed(evaluated.failures)

    def finish(self) -> None:
        """Close what is open once all is written, and upload the SAE where that is asked for."""
        self._is_over = True
        self._let_go(0)
        if self.cfg.push_to_hub is not None and self._is_first:
            upload(self.path / "sae", self.cfg.push_to_hub)

    def end(self, error: BaseException) -> None:
        """Note why the run has not finished, and let others use its folder."""
        if self._is_over:
            return
        self.error, self._is_over = error, True
        try:
            if self._record and self.path.is_dir():
                self._write({**self._record, **why_ended(signals.as_stop(error))})
            elif self._record and isinstance(error, Exception):
                self.error = removed(self.path, error)
        except (OSError, RunError) as problem:
            self.error = problem
        self._let_go(exit_code_of(signals.as_stop(error)))

    def _let_go(self, exit_code: int) -> None:
        """Close what is open, and tell that it is over."""
        if hasattr(self, "parts"):
            self.parts.logger.finish(exit_code)
            del self.parts  # other runs may go on for long
        if self._is_first:
            with suppress(OSError, RunError):  # somebody may have put something else there
                self.folder.release()
        self._when_over(self)


def removed(folder: Path, error: Exception) -> RunError:
    """Return the error of a run whose folder somebody has removed."""
    told = RunError(f"{folder}: the folder was removed while the run was going on")
    return distributed.collective(told) if distributed.is_collective(error) else told


def save_sae(parts: Components, sae: SparseAutoencoder, step: int, folder: Path) -> None:
    """Write an SAE of this run; from now on it takes activations as the model gives them."""
    sae.fold_input_scale(parts.stream.scale)
    sae.save(folder, sae_metadata(parts, step))


def sae_metadata(parts: Components, step: int) -> dict[str, Any]:
    """Return what the SAE belongs to, for `cfg.json`."""
    return {
        **parts.source.metadata(),
        "training_tokens": step * parts.trainer.batch_size,
        "model_from_pretrained_kwargs": {},
    }


def upload(folder: Path, repo_id: str) -> None:
    """Push the SAE; if that fails, say so and how to repeat it, for the run is finished."""
    try:
        log.info("uploaded to %s", push_to_hub(folder, repo_id))
    except RunError as error:
        again = module_command("temporal_sae.sae.hub", str(folder), repo_id)
        log.warning("%s; to repeat it: %s", error, again)
