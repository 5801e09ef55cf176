"""One run from its config to its report."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from temporal_sae import distributed, signals
from temporal_sae.commands import launch_command, module_command
from temporal_sae.errors import EvaluationFailed, InvalidOption, RunError
from temporal_sae.eval import decoder_metrics
from temporal_sae.experiment.build import Components, build_cheap, build_components, uses_cuda
from temporal_sae.experiment.determinism import deterministic_on_cpu, threads_of
from temporal_sae.experiment.evaluate import subject_of
from temporal_sae.experiment.folder import CHECKPOINTS, RunFolder, extends
from temporal_sae.experiment.record import environment, peak_memory
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
from temporal_sae.files import write_atomically, write_json
from temporal_sae.metrics import find_objective
from temporal_sae.report import build_report, print_summary
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.sae.hub import push_to_hub
from temporal_sae.terminal import Forgiving
from temporal_sae.tracker.stability import StabilityMonitor
from temporal_sae.training import (
    About,
    Checkpoints,
    MetricsLogger,
    NoLogger,
    Parts,
    Preempted,
    ProgressDisplay,
    Snapshots,
    Stopped,
)
from temporal_sae.training.loggers import Metrics

log = logging.getLogger(__name__)


class Trained(NamedTuple):
    """The end of a training, without its state."""

    step: int
    metrics: Metrics
    seconds: float
    co_activation: dict[str, Any]


# Of the processes after the first, as the command line ends the first (see `cli`).
EXIT_CODES = {InvalidOption: 2, RunError: 2, distributed.ProcessLost: 2, EvaluationFailed: 3}
OTHER_ERROR = 1


def run_experiment(
    cfg: DictConfig,
    folder: str | Path,
    overrides: list[str] | None = None,
    console: Console | None = None,
) -> float:
    """Train, evaluate and report one run; continues what the folder already holds.

    Where the environment tells of several processes they share the work; all of them call this.

    Args:
        cfg: a composed config with the groups of `conf/`.
        folder: receives everything that the run leaves.
        overrides: the command line, for the record.
        console: where progress and the summary are printed.

    Returns:
        The metric that `cfg.objective` names.

    Raises:
        InvalidOption, RunError: something a person can correct.
        EvaluationFailed: the SAE is trained and saved, and some evaluation has failed; the same
            command in the same folder repeats only those.
        Stopped: a signal ended training; a checkpoint has been written.
        Preempted: a cluster ends the process, and has queued the run again.
        SystemExit: in a process that is not the first, where the first says what went wrong.
    """
    try:
        with distributed.process_group(uses_cuda(cfg.device)):
            return _run(cfg, Path(folder), overrides or [], console)
    except Exception as error:
        signals.obey()  # what a swallowed signal leaves half done may fail in any way
        if distributed.is_left_to_rank_zero(error) and not isinstance(error, Stopped):
            raise SystemExit(EXIT_CODES.get(type(error), OTHER_ERROR)) from None
        raise


def _run(cfg: DictConfig, folder: Path, overrides: list[str], console: Console | None) -> float:
    """Run one process of an experiment; rank 0 has the folder and writes."""
    began, is_first = time.monotonic(), distributed.is_rank_zero()
    console = (console or Console()) if is_first else Console(quiet=True)
    console.file = cast(IO[str], Forgiving(console.file))
    shared = distributed.on_rank_zero(folder.absolute)  # each process may have got another one
    run_folder = RunFolder(folder if is_first else shared)
    cheap = distributed.raise_on_all_ranks(lambda: build_cheap(cfg, run_folder.path))
    cfg = cfg.copy()
    cfg.seed = cheap.seed  # a whole number, where 1e3 has been typed
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    # Before anything slow: a folder that has to be refused is refused at once.
    continued = distributed.on_rank_zero(
        lambda: run_folder.claim(config, cfg.overwrite, cheap.source)
    )
    try:
        with threads_of(continued, cheap.device):
            parts = distributed.raise_on_all_ranks(lambda: build_components(cfg, cheap))
            distributed.on_rank_zero(run_folder.make_ready)
            record = describe(cfg, config, overrides, parts) if is_first else {}
            if is_first:
                changes = run_folder.changes_of_source(parts.source, continued, config)
                record["data"] = source_section(parts.source, continued, changes)
                record |= lengths_before(continued, config)
            parts.logger = parts.logger if is_first else NoLogger()
            with closing(parts.logger):
                objective = _work(cfg, config, overrides, parts, run_folder, record, console, began)
    finally:
        if is_first:
            run_folder.release()
    if cfg.push_to_hub is not None and is_first:
        upload(run_folder.path / "sae", cfg.push_to_hub)
    return objective


def _work(
    cfg: DictConfig,
    config: dict[str, Any],
    overrides: list[str],
    parts: Components,
    run_folder: RunFolder,
    record: dict[str, Any],
    console: Console,
    began: float,
) -> float:
    """Train and evaluate in a folder that is the run's own; returns the objective."""
    is_first = distributed.is_rank_zero()

    def write(record: dict[str, Any]) -> None:
        if is_first:
            run_folder.write(with_what_was_left_out(record, parts.source))

    try:
        write(record)
        if is_first:
            save_config(cfg, overrides, run_folder.path)
            write_listing(run_folder.path, parts.source)
        parts.logger.start(About(config, overrides))
        with deterministic_on_cpu(parts.device):
            trained = _train(parts, run_folder.path, console)

            def finish() -> float:
                signals.obey()
                judged = _judge(cfg, config, parts, run_folder.path, trained)
                objective, outcome, failures = judged
                record.update(outcome, wall_seconds=time.monotonic() - began)
                write({**record, "status": "failed" if failures else "finished"})
                say_what_was_left_out(record, parts.source)
                build_report(run_folder.path)
                print_summary(run_folder.path, console)
                if failures:
                    raise EvaluationFailed(failures)
                return objective

            return distributed.on_rank_zero(finish)
    except BaseException as error:
        if run_folder.path.is_dir():
            write({**record, **why_ended(signals.as_stop(error))})
        elif isinstance(error, Exception):
            raise removed(run_folder.path, error) from error
        raise


def removed(folder: Path, error: Exception) -> RunError:
    """Return the error of a run whose folder somebody has removed."""
    told = RunError(f"{folder}: the folder was removed while the run was going on")
    return distributed.collective(told) if distributed.is_collective(error) else told


@contextmanager
def closing(logger: MetricsLogger) -> Iterator[None]:
    """Close a logger however the run inside ends, with the exit code that this has alone."""
    try:
        yield
    except BaseException as error:
        logger.finish(exit_code_of(signals.as_stop(error)))
        raise
    logger.finish(0)


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of a run that has not finished."""
    if isinstance(error, (Stopped, KeyboardInterrupt)):
        return signals.exit_code(error)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return EXIT_CODES.get(type(error), OTHER_ERROR)


def describe(
    cfg: DictConfig, config: dict[str, Any], overrides: list[str], parts: Components
) -> dict[str, Any]:
    """Return the record of a run that begins."""
    return {
        "status": "running",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": cfg.seed,
        "command": launch_command(overrides),
        "config": config,
        "memory_budget_bytes": parts.memory,
        "processes": distributed.world_size(),
        **environment(parts.device),
    }


def lengths_before(continued: dict[str, Any] | None, config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the record on the lengths that a run had before it was extended."""
    if continued is None:
        return {}
    earlier = continued.get("extended_from_tokens", [])
    if extends(continued["config"], config):
        earlier = [*earlier, continued["config"]["trainer"]["num_tokens"]]
    return {"extended_from_tokens": earlier} if earlier else {}


def why_ended(error: BaseException) -> dict[str, str]:
    """Return the record's status and reason of a run that has not finished."""
    if isinstance(error, Preempted):
        return {"status": "stopped", "reason": f"preempted at step {error.step}: queued again"}
    if isinstance(error, SystemExit):  # the handler of SIGUSR2, while no training loop takes it
        return {"status": "stopped", "reason": "preempted: queued again"}
    stopped = isinstance(error, (Stopped, KeyboardInterrupt))
    return {"status": "stopped" if stopped else "failed", "reason": f"{error}"}


def _train(parts: Components, folder: Path, console: Console) -> Trained:
    """Train, in all processes; what only training needs is given back."""
    stability = StabilityMonitor() if parts.tracker.gives_weights else None
    of_training = Parts(
        sae=parts.sae,
        batches=parts.stream,
        tracker=parts.tracker,
        penalty=parts.penalty,
        logger=parts.logger,
        checkpoints=Checkpoints(folder / CHECKPOINTS),
        progress=ProgressDisplay(parts.trainer.total_steps, console),
        stability=stability,
        snapshots=Snapshots(folder / "snapshots", partial(save_sae, parts)),
        finetune=parts.finetune,
    )
    with parts.stream.released():
        trained = parts.trainer.fit(of_training)
    co_activation = stability.summary(parts.tracker) if stability else {}
    return Trained(trained.step, trained.metrics, trained.seconds, co_activation)


def _judge(
    cfg: DictConfig,
    config: dict[str, Any],
    parts: Components,
    folder: Path,
    trained: Trained,
) -> tuple[float, dict[str, Any], dict[str, str]]:
    """Save and evaluate; returns the objective, what the record gains, and what failed."""
    (folder / "sae").mkdir(exist_ok=True)
    save_sae(parts, parts.sae, trained.step, folder / "sae")
    results: dict[str, Any] = {
        training_title(parts.source): training_section(
            parts, cfg.seed, trained.step, trained.metrics
        ),
        "co-activation results": {**trained.co_activation, **decoder_metrics(parts.sae.W_dec)},
        "cost": cost_section(parts, trained.metrics, trained.seconds),
    }
    subject = subject_of(parts.sae, folder / "sae", parts, config, folder / "eval")
    evaluated = parts.evaluation.run(subject)
    results |= evaluated.sections
    write_json(folder / "results.json", results)
    outcome = {
        "training_seconds": trained.seconds,  # of all parts of a continued run
        "tokens_per_second": trained.metrics["tokens"] / max(trained.seconds, 1e-9),
        "peak_memory_bytes": peak_memory(parts.device),
    }
    parts.logger.summarise(summary_of(results))
    if evaluated.failures:
        return math.nan, outcome, evaluated.failures
    objective = find_objective(cfg.objective, results)
    parts.logger.summarise({"objective": objective})
    return objective, outcome, {}


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


def save_config(cfg: DictConfig, overrides: list[str], folder: Path) -> None:
    """`.hydra/config.yaml` and `.hydra/overrides.yaml`, as Hydra would have written them."""
    (folder / ".hydra").mkdir(exist_ok=True)
    write_atomically(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(cfg))
    write_atomically(
        folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides))
    )
