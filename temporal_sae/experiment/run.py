"""One run from its config to its report."""

from __future__ import annotations

import logging
import math
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from temporal_sae.errors import EvaluationFailed, RunError
from temporal_sae.eval import decoder_metrics
from temporal_sae.experiment.build import Components, build_components
from temporal_sae.experiment.determinism import deterministic_on_cpu
from temporal_sae.experiment.evaluate import subject_of
from temporal_sae.experiment.folder import RunFolder
from temporal_sae.experiment.record import command_line, environment, peak_memory
from temporal_sae.experiment.results import cost_section, find_objective, training_section
from temporal_sae.files import write_atomically, write_json
from temporal_sae.report import build_report, print_summary
from temporal_sae.sae.hub import push_to_hub
from temporal_sae.tracker import NoTracker
from temporal_sae.tracker.stability import StabilityMonitor
from temporal_sae.training import Checkpoints, Parts, ProgressDisplay, Stopped

log = logging.getLogger(__name__)


def run_experiment(
    cfg: DictConfig,
    folder: str | Path,
    overrides: list[str] | None = None,
    console: Console | None = None,
) -> float:
    """Train, evaluate and report one run; continues what the folder already holds.

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
    """
    began = time.monotonic()
    console = console or Console()
    run_folder, overrides = RunFolder(folder), overrides or []
    parts = build_components(cfg, run_folder.path)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    run_folder.claim(config, cfg.overwrite)
    record = {
        "status": "running",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": cfg.seed,
        "command": command_line(overrides),
        "config": config,
        "memory_budget_bytes": parts.memory,
        **environment(parts.device),
    }
    try:
        run_folder.write(record)
        save_config(cfg, overrides, run_folder.path)
        with deterministic_on_cpu(parts.device):
            objective, outcome, failures = _run(cfg, config, parts, run_folder.path, console)
        record |= {**outcome, "wall_seconds": time.monotonic() - began}
        run_folder.write({**record, "status": "failed" if failures else "finished"})
        build_report(run_folder.path)
        print_summary(run_folder.path, console)
        if failures:
            raise EvaluationFailed(failures)
    except BaseException as error:
        status = "stopped" if isinstance(error, (Stopped, KeyboardInterrupt)) else "failed"
        run_folder.write({**record, "status": status, "reason": f"{error}"})
        raise
    finally:
        run_folder.release()
    if cfg.push_to_hub is not None:
        upload(run_folder.path / "sae", cfg.push_to_hub)
    return objective


def _run(
    cfg: DictConfig, config: dict[str, Any], parts: Components, folder: Path, console: Console
) -> tuple[float, dict[str, Any], dict[str, str]]:
    """Train, save, evaluate; returns the objective, what the record gains, and what failed."""
    stability = None if isinstance(parts.tracker, NoTracker) else StabilityMonitor()
    parts.logger.start(config)
    trained = parts.trainer.fit(
        Parts(
            sae=parts.sae,
            batches=parts.stream,
            tracker=parts.tracker,
            separation=parts.separation,
            logger=parts.logger,
            checkpoints=Checkpoints(folder / "checkpoints"),
            progress=ProgressDisplay(parts.trainer.total_steps, console),
            stability=stability,
        )
    )
    parts.logger.finish()
    parts.sae.fold_input_scale(parts.stream.scale)
    parts.sae.save(folder / "sae", sae_metadata(parts))
    results: dict[str, Any] = {
        f"training results for layer {parts.model.layer}": training_section(
            parts, cfg.seed, trained.step, trained.metrics
        ),
        "co-activation results": {
            **(stability.summary(parts.tracker) if stability else {}),
            **decoder_metrics(parts.sae.W_dec),
        },
        "cost": cost_section(parts, trained.metrics, trained.seconds),
    }
    subject = subject_of(parts.sae, folder / "sae", parts, config["data"], folder / "eval")
    evaluated = parts.evaluation.run(subject)
    results |= evaluated.sections
    write_json(folder / "results.json", results)
    outcome = {
        "training_seconds": trained.seconds,  # of all parts of a continued run
        "tokens_per_second": trained.metrics["tokens_per_second"],
        "peak_memory_bytes": peak_memory(parts.device),
    }
    if evaluated.failures:
        return math.nan, outcome, evaluated.failures
    return find_objective(cfg.objective, results), outcome, {}


def sae_metadata(parts: Components) -> dict[str, Any]:
    """Where the SAE belongs, for `cfg.json`."""
    return {
        "model_name": parts.model.name,
        "hook_name": parts.model.hook_name,
        "context_size": parts.source.context_size,
        "prepend_bos": parts.source.prepend_bos,
        "include_bos": parts.source.include_bos,
        "training_tokens": parts.trainer.total_steps * parts.trainer.batch_size,
        "model_from_pretrained_kwargs": {},
    }


def upload(folder: Path, repo_id: str) -> None:
    """Push the SAE; if that fails, say so and how to repeat it, for the run is finished."""
    try:
        log.info("uploaded to %s", push_to_hub(folder, repo_id))
    except RunError as error:
        again = shlex.join(["python", "-m", "temporal_sae.sae.hub", str(folder), repo_id])
        log.warning("%s; to repeat it: %s", error, again)


def save_config(cfg: DictConfig, overrides: list[str], folder: Path) -> None:
    """`.hydra/config.yaml` and `.hydra/overrides.yaml`, as Hydra would have written them."""
    write_atomically(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(cfg))
    write_atomically(
        folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides))
    )
