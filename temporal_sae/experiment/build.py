"""From a composed config to the components of a run."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from temporal_sae.activations import ActivationSource, ActivationStream, LanguageModel
from temporal_sae.data import Split, TextSource
from temporal_sae.errors import InvalidOption, RunError, check_bool, check_choice, check_int
from temporal_sae.eval import Evaluation
from temporal_sae.experiment.components import load_plugins
from temporal_sae.experiment.memory import check_memory
from temporal_sae.processes import n_processes
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.sae.hub import check_repo_id
from temporal_sae.tracker import NoTracker
from temporal_sae.training import Trainer
from temporal_sae.training.loggers import MetricsLogger

log = logging.getLogger(__name__)

GROUPS = {
    "model",
    "data",
    "activations",
    "sae",
    "tracker",
    "loss",
    "trainer",
    "eval",
    "logger",
}
TOP_LEVEL = GROUPS | {
    "seed",
    "device",
    "objective",
    "push_to_hub",
    "overwrite",
    "debug",
    "plugins",
}
TRAINING_METRICS = ("explained_variance", "final_loss", "l0", "dead_share")


@dataclass
class Judges:
    """What a trained SAE is evaluated with."""

    model: LanguageModel
    text: TextSource
    source: ActivationSource
    evaluation: Evaluation


@dataclass
class Components(Judges):
    """Everything that a run is made of, validated and ready."""

    device: torch.device
    sae: SparseAutoencoder
    tracker: Any
    separation: Any
    trainer: Trainer
    stream: ActivationStream
    logger: MetricsLogger
    memory: dict[str, int]


def build_judges(cfg: DictConfig) -> Judges:
    """Instantiate what evaluating an SAE takes; cheap and fallible parts come first.

    Raises:
        InvalidOption, RunError: as for `build_components`.
    """
    check_keys(cfg)
    load_plugins(cfg.plugins)
    device = choose_device(cfg.device)
    evaluation: Evaluation = build(cfg, "eval")
    source: ActivationSource = build(cfg, "activations")
    text: TextSource = build(cfg, "data")
    model: LanguageModel = build(cfg, "model", device=device)
    check_text(source, text, model, "held_out" if evaluation.needs_held_out_text else None)
    return Judges(model, text, source, evaluation)


def build_components(cfg: DictConfig, folder: Path) -> Components:
    """Instantiate every group for a run in `folder`; cheap and fallible parts come first.

    Raises:
        InvalidOption: an option is not allowed; its name carries the group.
        RunError: the text does not fill a window, or the run does not fit in memory.
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
    batch_of_a_process, rest = divmod(trainer.batch_size, n_processes())
    if rest:
        allowed = f"a multiple of {n_processes()}, the number of processes"
        raise InvalidOption("trainer.batch_size", trainer.batch_size, allowed)
    separation = build(cfg, "loss")
    evaluation: Evaluation = build(cfg, "eval")
    check_choice("objective", cfg.objective, (*TRAINING_METRICS, *evaluation.metric_names))
    source: ActivationSource = build(cfg, "activations")
    # The options of what may be large are judged before it exists, or anything slow is loaded.
    build(cfg, "tracker", n_latents=1, device="cpu")
    build_without_memory(cfg, d_in=1)
    text: TextSource = build(cfg, "data")
    model: LanguageModel = build(cfg, "model", device=device)
    with naming("activations"):
        stream = source.stream(
            text, model, trainer.batch_size, seed, ordered=cfg.tracker.get("stream") == "ordered"
        )
    check_text(source, text, model, "train")
    check_text(source, text, model, "held_out" if evaluation.needs_held_out_text else None)
    planned = build_without_memory(cfg, model.d_in)
    with naming("eval"):
        evaluation.check(model, planned, text)
    memory = check_memory(cfg, model, planned, source, batch_of_a_process, evaluation.batches)
    torch.manual_seed(seed)
    sae: SparseAutoencoder = build(cfg, "sae", d_in=model.d_in).to(device)
    tracker = build(cfg, "tracker", n_latents=sae.d_sae, device=device)
    with naming("loss"):
        separation.check_tracker(tracker)
    warn_if_idle(cfg, tracker, separation)
    logger = build(cfg, "logger", folder=folder)
    return Components(
        model=model,
        text=text,
        source=source,
        evaluation=evaluation,
        device=device,
        sae=sae,
        tracker=tracker,
        separation=separation,
        trainer=trainer,
        stream=stream,
        logger=logger,
        memory=memory,
    )


def build(cfg: DictConfig, group: str, **extra: Any) -> Any:
    """Instantiate one group's `_target_` with its own options and `extra`."""
    try:
        options = OmegaConf.to_container(cfg[group], resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key or group
        raise RunError(f"{key}: has no value yet; give one on the command line") from error
    with naming(group):
        return instantiate(options, **extra, _convert_="all")


def build_without_memory(cfg: DictConfig, d_in: int) -> SparseAutoencoder:
    """The SAE with shapes and no weights."""
    with torch.device("meta"):
        sae: SparseAutoencoder = build(cfg, "sae", d_in=d_in)
    return sae


class naming:  # noqa: N801 - reads as a statement: `with naming("tracker"):`
    """Errors inside come out with the config group in front of the option."""

    def __init__(self, group: str) -> None:
        self.group = group

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        group, cause = self.group, error
        if isinstance(error, InstantiationException):
            cause = error.__cause__
            if nested := re.search(r"^full_key: (\S+)$", str(error), re.MULTILINE):
                group = f"{group}.{nested[1]}"
        if isinstance(cause, InvalidOption):
            raise cause.within(group) from error
        if isinstance(cause, RunError):
            raise cause from error
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
        missing = re.search(r"missing \d+ required .*arguments?: (.+)$", str(cause))
        if isinstance(error, InstantiationException) and unknown:
            raise RunError(f"{group}.{unknown[1]}: unknown key") from error
        if isinstance(error, InstantiationException) and missing:
            raise RunError(f"{group}: must have {missing[1]}") from error


def warn_if_idle(cfg: DictConfig, tracker: Any, separation: Any) -> None:
    """Say so when a penalty is asked for that has no pair to act on."""
    if separation.ortho_weight == 0 or not separation.needs_tracker:
        return
    idle = f"so loss.ortho_weight={separation.ortho_weight:g} does nothing"
    if isinstance(tracker, NoTracker):
        log.warning("tracker=off: no pair has a weight, %s", idle)
    elif tracker.window_size > cfg.trainer.num_tokens:
        log.warning("tracker.window_size: no window closes within trainer.num_tokens, %s", idle)


def check_keys(cfg: DictConfig) -> None:
    """Refuse a key at the top that `+key=value` has added and nothing would read."""
    unknown = sorted(set(map(str, cfg)) - TOP_LEVEL)
    if unknown:
        raise RunError(f"{unknown[0]}: unknown key; known: {', '.join(sorted(TOP_LEVEL))}")


def uses_cuda(name: str) -> bool:
    """Whether a run with that `device` computes on a GPU."""
    return torch.cuda.is_available() and str(name).startswith(("auto", "cuda"))


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; of several processes each has got its own card before.

    Raises:
        InvalidOption: no such device on this machine.
    """
    if n_processes() > 1 and uses_cuda(name):
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
    """Read one window of a split that will be needed, before any work is done."""
    if split is None:
        return
    with naming("activations"):
        windows = source.windows(text, model, split, seed=0)
    try:
        with naming("data"):
            next(windows)
    except StopIteration:
        raise RunError("the held-out text does not fill a window") from None
    except RunError as error:
        if split == "train":
            raise
        raise RunError(
            f"{error}; the evaluation needs held-out text: give data.path at least two files with "
            "data.held_out_fraction > 0, or use eval=none"
        ) from error
