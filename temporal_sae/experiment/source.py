"""From the config groups `activations`, `model` and `data` to an open source of activations."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

from temporal_sae.activations import ActivationSource, LanguageModel
from temporal_sae.activations.source import LANGUAGE_MODEL, ROWS, TEXT, TRUTH
from temporal_sae.data import Split, TextSource
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval import Evaluation
from temporal_sae.experiment.construct import (
    TARGET,
    arguments_of,
    build,
    find_class,
    naming,
    plain,
)

log = logging.getLogger(__name__)

WORDS = {ROWS: "held-out rows", LANGUAGE_MODEL: "a language model", TEXT: "text", TRUTH: "a truth"}


def build_source(
    cfg: DictConfig, device: torch.device, folder: Path, other: ActivationSource | None = None
) -> ActivationSource:
    """Instantiate the source of activations with those of its arguments that it names.

    The language model is loaded when the source is opened.

    Args:
        cfg: with the groups of the source.
        device: where batches shall be.
        folder: the run's own.
        other: a source of the same language model, which is then not loaded again.
    """
    options = plain(cfg["activations"])
    target = options.get(TARGET) if isinstance(options, dict) else None
    wanted, required = arguments_of(find_class(f"activations.{TARGET}", target))
    text: TextSource | None = other.text if other is not None else None
    if text is None and wanted and "text" in wanted and cfg.get("data") is not None:
        text = build(cfg, "data", folder=folder)

    def load() -> LanguageModel:
        try:
            if other is not None:
                other.open()
                assert other.model is not None
                with naming("model"):
                    return other.model.at(plain(cfg["model"])["hook_name"])
            model: LanguageModel = build(cfg, "model", device=device)
        except InvalidOption as error:
            raise RunError(str(error)) from error  # it names its group: no other goes before
        return model

    given = {
        "model": load if cfg.get("model") is not None else None,
        "text": text,
        # A function: of options as they are, Hydra would build what they name.
        "options_of": lambda group: plain(cfg.get(group)),
        "device": device,
        "folder": folder,
    }
    for name, group in (("model", "model"), ("text", "data")):
        if name in required and given[name] is None:
            raise RunError(f"{group}: is missing; these activations need it: {group}=NAME")
    for group, name in (("model", "model"), ("data", "text")):
        if cfg.get(group) is not None and name not in (wanted or ()):
            log.info("%s is not used: these activations come without it", group)
    named = {name: value for name, value in given.items() if wanted and name in wanted}
    source: ActivationSource = build(cfg, "activations", **named)
    return source


def open_source(source: ActivationSource) -> None:
    """Load or map what the source reads; of text some is read first, since that is faster.

    Raises:
        InvalidOption, RunError: it cannot be had.
    """
    if source.text is not None:
        with naming("data"):
            next(source.text.documents("train", 0, 0), None)
    with naming("activations"):
        source.open()


def check_split(source: ActivationSource, split: Split) -> None:
    """Refuse a split without rows before any work is done."""
    with naming(source.reads):
        source.check(split)


def fitted(evaluation: Evaluation, source: ActivationSource) -> Evaluation:
    """Return the evaluation that this source allows.

    Raises:
        RunError: it cannot give what the evaluation needs.
    """
    evaluation = evaluation.for_source(source)
    for need in sorted(evaluation.needs):  # that of a set differs between processes
        with naming(source.reads):
            reason = source.why_not(need)
        if reason is not None:
            helps = source.held_out_advice if need == ROWS else "eval=auto runs what there is"
            told = f"eval={evaluation.name} needs {WORDS[need]}, and {reason}; {helps}"
            raise RunError(told)
    return evaluation
