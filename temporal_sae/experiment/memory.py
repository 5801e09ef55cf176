"""The memory budget of a run, printed before anything is allocated."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from temporal_sae.activations import LanguageModel
from temporal_sae.distributed import world_size
from temporal_sae.errors import RunError
from temporal_sae.machine import MIB, Free, Planned, free_memory
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.tracker.stability import StabilityMonitor

if TYPE_CHECKING:
    from temporal_sae.experiment.build import Cheap

log = logging.getLogger(__name__)

FLOAT = 4
LOGITS_IN_EVALUATION = 6  # as the model and the SAE have them, their logarithms, what compares them
DENSE_COPIES_IN_EVALUATION = 3  # pre-activations, latents, and what is counted of them
COLUMNS = 79
NO_BREAK = "\N{NO-BREAK SPACE}"


def check_memory(
    cfg: DictConfig, cheap: Cheap, model: LanguageModel, sae: SparseAutoencoder
) -> dict[str, int]:
    """Bytes of a process by purpose; printed, and refused with them where they exceed what is free.

    The language model is already loaded; everything else is still to come.

    Args:
        cfg: the config, of whose keys those are named that help.
        cheap: the components that take no memory yet.
        model: the language model.
        sae: with shapes only.

    Raises:
        RunError: it does not fit; the message names the keys of the largest parts.
    """
    items = planned_items(cheap, model, sae)
    budget = {"language model": model.nbytes(), **{name: i.n_bytes for name, i in items.items()}}
    free = free_memory(model.device)
    log.info("%s", in_lines(budget, free))
    needed = sum(item.n_bytes for item in items.values())
    if free is not None and needed > free.n_bytes:
        raise RunError(
            f"the run needs {needed / MIB:,.0f} MiB of memory beside the language model, and "
            f"{free} are free on {model.device}; {what_helps(cfg, items, needed - free.n_bytes)}"
        )
    return budget


def planned_items(cheap: Cheap, model: LanguageModel, sae: SparseAutoencoder) -> dict[str, Planned]:
    """Return what a run will allocate, by purpose, as its components say."""
    tracker, loss = cheap.tracker, cheap.penalty
    k = min(sae.tracked_latents, sae.d_sae)
    works = loss.ortho_weight and (tracker.gives_weights or not loss.needs_tracker)
    return {
        **evaluation_items(cheap.evaluation.batches, cheap.source.context_size, model, sae),
        **sae.planned_bytes(cheap.trainer.batch_size // world_size()),
        **cheap.source.planned_bytes(model),
        **tracker.planned_bytes(sae.d_sae, k, model.device),
        **(StabilityMonitor().planned_bytes(sae.d_sae, sae.d_in) if tracker.gives_weights else {}),
        **(loss.planned_bytes(sae.d_sae, sae.d_in) if works else {}),
    }


def evaluation_items(
    batches: Mapping[str, int], context_size: int, model: LanguageModel, sae: SparseAutoencoder
) -> dict[str, Planned]:
    """The largest forward pass of an evaluation, by the sequences that its options ask for."""
    sequences = max(batches.values(), default=0)
    tokens = sequences * context_size
    options = tuple(f"eval.{option}" for option, n in batches.items() if n == sequences)
    vocab = int(model.model.config.get_text_config().vocab_size)
    logits = LOGITS_IN_EVALUATION * tokens * vocab * FLOAT
    latents = DENSE_COPIES_IN_EVALUATION * tokens * sae.d_sae * FLOAT
    return {
        "logits in evaluation": Planned(logits, (*options, "activations.context_size")),
        "latents in evaluation": Planned(latents, (*options, "sae.d_sae")),
    }


def in_lines(budget: Mapping[str, int], free: Free | None) -> str:
    """The budget in lines that a narrow terminal breaks nowhere, unless at an item's end."""
    items = [f"{name} {size / MIB:,.0f}" for name, size in budget.items()]
    items.append(f"free {free or 'unknown'}")
    unbroken = " · ".join(items).replace(" ", NO_BREAK).replace(f"{NO_BREAK}·{NO_BREAK}", " · ")
    lines = textwrap.wrap(f"memory (MiB): {unbroken}", COLUMNS, subsequent_indent="  ")
    return "\n".join(lines).replace(NO_BREAK, " ")


def what_helps(cfg: DictConfig, items: Mapping[str, Planned], excess: int) -> str:
    """The keys of the largest items that this config has, as many as it takes to save `excess`."""
    advice: dict[str, list[str]] = {}
    for name, item in sorted(items.items(), key=lambda pair: -pair[1].n_bytes):
        if excess <= 0:
            break
        excess -= item.n_bytes
        keys = [k for k in item.smaller if OmegaConf.select(cfg, k.split("=")[0]) is not None]
        advice.setdefault(" or ".join(keys), []).append(f"{name} {item.n_bytes / MIB:,.0f}")
    return "lower " + ", ".join(f"{keys} ({' and '.join(of)})" for keys, of in advice.items())
