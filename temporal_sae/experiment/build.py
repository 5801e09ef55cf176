"""From a composed config to the components of a run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from temporal_sae.activations import ActivationSource, ActivationStream, LanguageModel
from temporal_sae.data import Split, TextSource
from temporal_sae.distributed import world_size
from temporal_sae.errors import InvalidOption, RunError, check_bool, check_int
from temporal_sae.eval import Evaluation
from temporal_sae.experiment.components import load_plugins
from temporal_sae.experiment.construct import KINDS, build, naming, plain
from temporal_sae.experiment.memory import check_memory
from temporal_sae.experiment.results import check_objective
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.sae.hub import check_repo_id
from temporal_sae.training import Trainer
from temporal_sae.training.loggers import MetricsLogger
from temporal_sae.training.parts import Tracker

log = logging.getLogger(__name__)

SETTINGS = {"seed", "device", "objective", "push_to_hub", "overwrite", "debug", "plugins"}
TOP_LEVEL = {*KINDS, *SETTINGS}


@dataclass
class EvaluationComponents:
    """Components with which a trained SAE is evaluated."""

    model: LanguageModel
    text: TextSource
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
    stream: ActivationStream
    logger: MetricsLogger
    memory: dict[str, int]


def build_evaluation(cfg: DictConfig, folder: Path) -> EvaluationComponents:
    """Instantiate what evaluating an SAE in `folder` takes; cheap and fallible parts come first.

    Raises:
        InvalidOption, RunError: as for `build_components`.
    """
    check_keys(cfg)
    load_plugins(cfg.plugins)
    device = choose_device(cfg.device)
    evaluation: Evaluation = build(cfg, "eval")
    source: ActivationSource = build(cfg, "activations")
    text: TextSource = build(cfg, "data", folder=folder)
    model: LanguageModel = build(cfg, "model", device=device)
    check_text(source, text, model, "held_out" if evaluation.needs_held_out_text else None)
    return EvaluationComponents(model, text, source, evaluation)


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
    text: TextSource
    logger: MetricsLogger


def build_cheap(cfg: DictConfig, folder: Path) -> Cheap:
    """Instantiate what takes no time, and judge the options of the rest.

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
    source: ActivationSource = build(cfg, "activations")
    tracker: Tracker = build(cfg, "tracker", n_latents=1, device="cpu")
    build_without_memory(cfg, d_in=1)
    text: TextSource = build(cfg, "data", folder=folder)
    logger: MetricsLogger = build(cfg, "logger", folder=folder)
    return Cheap(device, seed, trainer, penalty, tracker, evaluation, source, text, logger)


def build_components(cfg: DictConfig, cheap: Cheap) -> Components:
    """Instantiate every group for a run; fallible parts come first.

    Raises:
        InvalidOption: an option is not allowed; its name carries the group.
        RunError: the text does not fill a sequence, or the run does not fit in memory.
    """
    trainer, source, text, evaluation = cheap.trainer, cheap.source, cheap.text, cheap.evaluation
    with naming("data"):  # a data set that cannot be read is refused before the model is loaded
        next(text.documents("train", cheap.seed, 0), None)
    model: LanguageModel = build(cfg, "model", device=cheap.device)
    in_order = cfg.tracker.get("stream") == "ordered"
    with naming("activations"):
        stream = source.stream(text, model, trainer.batch_size, cheap.seed, ordered=in_order)
    check_text(source, text, model, "train")
    check_text(source, text, model, "held_out" if evaluation.needs_held_out_text else None)
    planned = build_without_memory(cfg, model.d_in)
    with naming("eval"):
        evaluation.check(model, planned, text)
    memory = check_memory(cfg, cheap, model, planned)
    torch.manual_seed(cheap.seed)
    sae: SparseAutoencoder = build(cfg, "sae", d_in=model.d_in).to(cheap.device)
    tracker = build(cfg, "tracker", n_latents=sae.d_sae, device=cheap.device)
    with naming("loss"):
        cheap.penalty.check_tracker(tracker)
    warn_if_idle(cfg, tracker, cheap.penalty)
    return Components(
        model=model,
        text=text,
        source=source,
        evaluation=evaluation,
        device=cheap.device,
        sae=sae,
        tracker=tracker,
        penalty=cheap.penalty,
        trainer=trainer,
        stream=stream,
        logger=cheap.logger,
        memory=memory,
    )


def build_without_memory(cfg: DictConfig, d_in: int) -> SparseAutoencoder:
    """The SAE with shapes and no weights."""
    with torch.device("meta"):
        sae: SparseAutoencoder = build(cfg, "sae", d_in=d_in)
    return sae


def warn_if_idle(cfg: DictConfig, tracker: Any, penalty: Any) -> None:
    """Say so when a penalty is asked for that has no pair to act on."""
    if penalty.ortho_weight == 0 or not penalty.needs_tracker:
        return
    idle = f"so loss.ortho_weight={penalty.ortho_weight:g} does nothing"
    if not tracker.gives_weights:
        log.warning("tracker=off: no pair has a weight, %s", idle)
    elif tracker.window_size > cfg.trainer.num_tokens:
        log.warning("tracker.window_size: no window closes within trainer.num_tokens, %s", idle)


def check_keys(cfg: DictConfig) -> None:
    """Refuse what `+key=value` has added at the top, `~key` removed, and `${…}` does not find."""
    unknown = sorted(set(map(str, cfg)) - TOP_LEVEL)
    if unknown:
        raise RunError(f"{unknown[0]}: unknown key; known: {', '.join(sorted(TOP_LEVEL))}")
    missing = sorted(TOP_LEVEL - set(map(str, cfg)))
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


def check_text(
    source: ActivationSource, text: TextSource, model: LanguageModel, split: Split | None
) -> None:
    """Read one sequence of a split that will be needed, before any work is done."""
    if split is None:
        return
    with naming("activations"):
        sequences = source.sequences(text, model, split, seed=0)
    try:
        with naming("data"):
            next(sequences)
    except RunError as error:
        if split == "train":
            raise
        raise RunError(
            f"{error}; the evaluation needs held-out text: {text.held_out_advice}"
        ) from error
