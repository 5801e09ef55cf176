"""From a composed config to the components of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from temporal_sae.activations import ActivationSource
from temporal_sae.distributed import world_size
from temporal_sae.errors import InvalidOption, RunError, check_bool, check_int, check_words
from temporal_sae.eval import Evaluation
from temporal_sae.experiment.components import load_plugins
from temporal_sae.experiment.construct import (
    KINDS,
    build,
    naming,
    plain,
)
from temporal_sae.experiment.loggers import build_loggers
from temporal_sae.experiment.memory import Room, check_memory
from temporal_sae.experiment.results import check_objective
from temporal_sae.experiment.source import build_source, check_split, fitted, open_source
from temporal_sae.sae import SparseAutoencoder, load_sae
from temporal_sae.sae.hub import check_repo_id
from temporal_sae.sae.start import check_start
from temporal_sae.training import Loggers, NoLogger, Trainer
from temporal_sae.training.parts import Tracker, in_order
from temporal_sae.training.streams import SharedStream, StreamView

log = logging.getLogger(__name__)

SETTINGS = {
    "seed",
    "device",
    "objective",
    "finetune",
    "push_to_hub",
    "overwrite",
    "debug",
    "plugins",
}
TOP_LEVEL = {*KINDS, *SETTINGS}
# A language model is none of activations that come without one; metrics.jsonl needs no logger.
OPTIONAL = {"model", "data", "logger"}


@dataclass
class EvaluationComponents:
    """Components with which a trained SAE is evaluated."""

    source: ActivationSource
    evaluation: Evaluation


@dataclass
class Components(EvaluationComponents):
    """Everything that a run is made of, validated and ready."""

    device: torch.device
    sae: SparseAutoencoder
    tracker: Any
    penalty: Any
    trainer: Trainer
    stream: StreamView
    logger: Loggers | NoLogger
    memory: dict[str, int]
    finetune: SparseAutoencoder | None


def build_evaluation(cfg: DictConfig, folder: Path) -> EvaluationComponents:
    """Instantiate what evaluating an SAE in `folder` takes; cheap and fallible parts come first.

    Raises:
        InvalidOption, RunError: as for `build_components`.
    """
    check_keys(cfg)
    load_plugins(cfg.plugins)
    device = choose_device(cfg.device)
    evaluation: Evaluation = build(cfg, "eval")
    source = build_source(cfg, device, folder)
    open_source(source)
    return EvaluationComponents(source, fitted(evaluation, source))


@dataclass
class Cheap:
    """Components that are ready before the language model is loaded.

    The tracker has the run's options and one latent: it only says what it will need.
    """

    device: torch.device
    seed: int
    trainer: Trainer
    penalty: Any
    tracker: Tracker
    evaluation: Evaluation
    source: ActivationSource
    logger: Loggers
    finetune: SparseAutoencoder | None


def build_cheap(
    cfg: DictConfig,
    folder: Path,
    source: ActivationSource | None = None,
    other: ActivationSource | None = None,
) -> Cheap:
    """Instantiate what takes no time, and judge the options of the rest.

    Args:
        cfg: of the run.
        folder: of the run.
        source: of another run with the same options, which this one shares; None: its own.
        other: of a run that reads the same language model at another place.

    Raises:
        InvalidOption, RunError: as for `build_components`.
    """
    check_keys(cfg)
    load_plugins(cfg.plugins)
    for flag in ("overwrite", "debug"):
        check_bool(flag, cfg[flag])
    if cfg.push_to_hub is not None:
        check_repo_id("push_to_hub", cfg.push_to_hub)
    device = choose_device(cfg.device)
    seed = check_int("seed", cfg.seed, 0)
    trainer: Trainer = build(cfg, "trainer")
    if trainer.batch_size % world_size():
        allowed = f"a multiple of {world_size()}, the number of processes"
        raise InvalidOption("trainer.batch_size", trainer.batch_size, allowed)
    penalty = build(cfg, "loss")
    evaluation: Evaluation = build(cfg, "eval")
    check_objective(cfg.objective, evaluation)
    tracker: Tracker = build(cfg, "tracker", n_latents=1, device="cpu")
    build_without_memory(cfg, d_in=1)
    if source is None:
        source = build_source(cfg, device, folder, other)
    logger = build_loggers(cfg, folder)
    check_words("finetune", cfg.finetune, null=True)
    finetune = None if cfg.finetune is None else load_sae(cfg.finetune)
    return Cheap(device, seed, trainer, penalty, tracker, evaluation, source, logger, finetune)


def build_components(
    cfg: DictConfig, cheap: Cheap, stream: Callable[[], SharedStream], room: Room
) -> Components:
    """Instantiate every group for a run; fallible parts come first.

    Args:
        cfg: of the run.
        cheap: the components that there are.
        stream: gives the stream of the run's source, which is open then.
        room: of the runs beside this one.

    Raises:
        InvalidOption: an option is not allowed; its name carries the group.
        RunError: the text does not fill a sequence, or the run does not fit in memory.
        NoRoom: it does not fit beside the other runs.
    """
    source = cheap.source
    open_source(source)
    with naming("activations"):
        shared = stream()
        if in_order(cheap.tracker):
            source.check_order()
    check_split(source, "train")
    evaluation = fitted(cheap.evaluation, source)
    check_objective(cfg.objective, evaluation)
    planned = build_without_memory(cfg, source.d_in)
    if cheap.finetune is not None:
        check_start(planned, cheap.finetune)
    with naming("eval"):
        evaluation.check(source, planned)
    with naming("trainer"):
        cheap.trainer.check(planned)
    memory = check_memory(cfg, cheap, evaluation, planned, room)
    torch.manual_seed(cheap.seed)
    sae: SparseAutoencoder = build(cfg, "sae", d_in=source.d_in).to(cheap.device)
    tracker = build(cfg, "tracker", n_latents=sae.d_sae, device=cheap.device)
    with naming("loss"):
        cheap.penalty.check_tracker(tracker)
    warn_if_idle(cfg, tracker, cheap.penalty)
    return Components(
        source=source,
        evaluation=evaluation,
        device=cheap.device,
        sae=sae,
        tracker=tracker,
        penalty=cheap.penalty,
        trainer=cheap.trainer,
        stream=shared.view(ordered=in_order(tracker)),
        logger=cheap.logger,
        memory=memory,
        finetune=cheap.finetune,
    )


def build_without_memory(cfg: DictConfig, d_in: int) -> SparseAutoencoder:
    """Return the SAE with shapes and no weights."""
    with torch.device("meta"):
        sae: SparseAutoencoder = build(cfg, "sae", d_in=d_in)
    return sae


def warn_if_idle(cfg: DictConfig, tracker: Any, penalty: Any) -> None:
    """Say so when a penalty is asked for that has no pair to act on."""
    if penalty.ortho_weight == 0:
        return
    idle = f"so loss.ortho_weight={penalty.ortho_weight:g} does nothing"
    constraint = cfg.trainer.get("constraint")
    if constraint == "frozen_decoder" and not penalty.through_latents:
        log.warning("trainer.constraint=%s: no decoder row moves, %s", constraint, idle)
    if penalty.needs_tracker and not tracker.gives_weights:
        log.warning("tracker=off: no pair has a weight, %s", idle)
    elif penalty.needs_tracker and tracker.window_size > cfg.trainer.num_tokens:
        log.warning("tracker.window_size: no window closes within trainer.num_tokens, %s", idle)
    elif hasattr(penalty, "begins_at") and penalty.begins_at(tracker) > cfg.trainer.num_tokens:
        begins = f"the penalty begins after {penalty.begins_at(tracker):,} tokens"
        log.warning("%s, more than trainer.num_tokens, %s", begins, idle)


def check_keys(cfg: DictConfig) -> None:
    """Refuse what `+key=value` has added at the top, `~key` removed, and `${…}` does not find."""
    unknown = sorted(set(map(str, cfg)) - TOP_LEVEL)
    if unknown:
        raise RunError(f"{unknown[0]}: unknown key; known: {', '.join(sorted(TOP_LEVEL))}")
    missing = sorted(TOP_LEVEL - OPTIONAL - set(map(str, cfg)))
    if missing:
        raise RunError(f"{missing[0]}: is missing; nothing works without it")
    plain(cfg)


def uses_cuda(name: str) -> bool:
    """Return whether a run with that `device` computes on a GPU."""
    return torch.cuda.is_available() and str(name).startswith(("auto", "cuda"))


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; of several processes each has got its own card before.

    Raises:
        InvalidOption: no such device on this machine.
    """
    if world_size() > 1 and uses_cuda(name):
        if name not in ("auto", "cuda"):
            raise InvalidOption("device", name, "auto, cuda or cpu for several processes")
        return torch.device("cuda", torch.cuda.current_device())
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if n_cuda else "cpu")
    available = ["cpu", *(["cuda"] if n_cuda else []), *(f"cuda:{n}" for n in range(n_cuda))]
    if name not in available:
        raise InvalidOption("device", name, "one of auto, " + ", ".join(available))
    return torch.device(name)
