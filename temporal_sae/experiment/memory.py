"""What a run will need in memory, said before it is allocated."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from temporal_sae.activations import ActivationSource, LanguageModel
from temporal_sae.errors import RunError
from temporal_sae.loss.products import BYTES_AT_ONCE
from temporal_sae.machine import MIB, Free, free_memory
from temporal_sae.processes import n_processes
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.tracker.choice import choose_storage, storage_bytes

log = logging.getLogger(__name__)

FLOAT = 4
BYTES_OF_A_SLOT = 12  # a latent, and where it is found again
PAIR_TEMPORARIES = 4  # overlaps, weights, their product, a gradient
LOGITS_IN_EVALUATION = 6  # as the model and the SAE have them, their logarithms, what compares them
DENSE_COPIES_OF_A_BATCH = 5  # pre-activations, latents and their gradients
DENSE_COPIES_IN_EVALUATION = 3  # pre-activations, latents, and what is counted of them
COLUMNS = 79
NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Item:
    """A part of the budget.

    Args:
        n_bytes: how much it takes.
        smaller: what makes it smaller, as typed; the most helpful first.
    """

    n_bytes: int
    smaller: tuple[str, ...]


def check_memory(
    cfg: DictConfig,
    model: LanguageModel,
    sae: SparseAutoencoder,
    source: ActivationSource,
    batch_size: int,
    evaluated: Mapping[str, int],
) -> dict[str, int]:
    """Bytes of a process by purpose; printed, and refused with them where they exceed what is free.

    The language model is already loaded; everything else is still to come.

    Args:
        evaluated: windows in one forward pass of the evaluation, by its option that says how many.

    Raises:
        RunError: it does not fit; the message names the keys of the largest parts.
    """
    items = budget_items(cfg, model, sae, source, batch_size, evaluated)
    budget = {"language model": model.nbytes(), **{name: i.n_bytes for name, i in items.items()}}
    free = free_memory(model.device)
    log.info("%s", in_lines(budget, free))
    needed = sum(item.n_bytes for item in items.values())
    if free is not None and needed > free.n_bytes:
        raise RunError(
            f"the run needs {needed / MIB:,.0f} MiB of memory beside the language model, and "
            f"{free} are free on {model.device}; {what_helps(items, needed - free.n_bytes)}"
        )
    return budget


def budget_items(
    cfg: DictConfig,
    model: LanguageModel,
    sae: SparseAutoencoder,
    source: ActivationSource,
    batch_size: int,
    evaluated: Mapping[str, int],
) -> dict[str, Item]:
    """What a run will allocate, by purpose."""
    weights = sum(p.nbytes for p in sae.parameters())
    acts_bytes = {"float32": 4}.get(model.dtype, 2)
    vocab = int(model.model.config.get_text_config().vocab_size)
    windows = max(evaluated.values(), default=0)
    tokens = windows * source.context_size
    batches = tuple(f"eval.{option}" for option, n in evaluated.items() if n == windows)
    return {
        "logits in evaluation": Item(
            LOGITS_IN_EVALUATION * tokens * vocab * FLOAT, (*batches, "activations.context_size")
        ),
        "latents in evaluation": Item(
            DENSE_COPIES_IN_EVALUATION * tokens * sae.d_sae * FLOAT, (*batches, "sae.d_sae")
        ),
        "SAE, gradients, Adam": Item(4 * weights, ("sae.d_sae",)),
        "batch": Item(
            DENSE_COPIES_OF_A_BATCH * batch_size * sae.d_sae * FLOAT,
            ("trainer.batch_size", "sae.d_sae"),
        ),
        "shuffle buffer": Item(
            source.buffer_tokens * sae.d_in * acts_bytes, ("activations.buffer_tokens",)
        ),
        "tracker": tracker_item(cfg, sae, model.device),
        "penalty": Item(penalty_bytes(cfg, sae), ("sae.d_sae", "loss.ortho_weight=0")),
    }


def in_lines(budget: Mapping[str, int], free: Free | None) -> str:
    """The budget in lines that a narrow terminal breaks nowhere, unless at an item's end."""
    items = [f"{name} {size / MIB:,.0f}" for name, size in budget.items()]
    items.append(f"free {free or 'unknown'}")
    unbroken = " · ".join(items).replace(" ", NO_BREAK).replace(f"{NO_BREAK}·{NO_BREAK}", " · ")
    lines = textwrap.wrap(f"memory (MiB): {unbroken}", COLUMNS, subsequent_indent="  ")
    return "\n".join(lines).replace(NO_BREAK, " ")


def what_helps(items: Mapping[str, Item], excess: int) -> str:
    """The keys of the largest items, as many of them as it takes to save `excess` bytes."""
    advice: dict[str, list[str]] = {}
    for name, item in sorted(items.items(), key=lambda pair: -pair[1].n_bytes):
        if excess <= 0:
            break
        excess -= item.n_bytes
        advice.setdefault(" or ".join(item.smaller), []).append(f"{name} {item.n_bytes / MIB:,.0f}")
    return "lower " + ", ".join(f"{keys} ({' and '.join(of)})" for keys, of in advice.items())


def tracker_item(cfg: DictConfig, sae: SparseAutoencoder, device: torch.device) -> Item:
    """The averages in the storage that will be chosen, and two windows with their indexes."""
    if "NoTracker" in cfg.tracker._target_:
        return Item(0, ())
    window_size = int(cfg.tracker.window_size)
    k = min(getattr(sae, "k", None) or sae.d_sae, sae.d_sae)
    asked = cfg.tracker.get("storage", "reference")
    shards = n_processes() if cfg.tracker.get("sharded") else 1
    storage, _ = choose_storage(asked, sae.d_sae, k, window_size, device, shards)
    labels = min(sae.d_sae, window_size * k) if storage == "sparse" else sae.d_sae
    tokens_a_byte = 1 if device.type == "cuda" else 8
    windows = 2 * window_size * (BYTES_OF_A_SLOT * k + labels // tokens_a_byte)
    # The pairs of `sparse` are not known yet; they come as they are seen.
    pairs = (
        0 if storage == "sparse" else storage_bytes(storage, sae.d_sae, k, window_size) // shards
    )
    if windows > pairs:
        return Item(windows, ("tracker.window_size", *(["sae.k"] if "k" in cfg.sae else [])))
    return Item(windows + pairs, ("sae.d_sae",))


def penalty_bytes(cfg: DictConfig, sae: SparseAutoencoder) -> int:
    """A dense gradient of the decoder, and the pairs that are looked at together."""
    tracked = "NoTracker" not in cfg.tracker._target_
    without_tracker = "Chunked" in cfg.loss._target_ or cfg.loss.get("weighting") == "uniform"
    if not cfg.loss.ortho_weight or not (tracked or without_tracker):
        return 0
    if "ConsecutiveLoss" in cfg.loss._target_:
        return PAIR_TEMPORARIES * sae.d_sae**2 * FLOAT
    return sae.W_dec.nbytes + PAIR_TEMPORARIES * BYTES_AT_ONCE
