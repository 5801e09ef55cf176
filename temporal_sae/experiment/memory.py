"""What a run will need in memory, said before it is allocated."""

from __future__ import annotations

import logging

import torch
from omegaconf import DictConfig

from temporal_sae.activations import ActivationSource, LanguageModel
from temporal_sae.errors import RunError
from temporal_sae.loss.products import BYTES_AT_ONCE
from temporal_sae.machine import free_memory
from temporal_sae.processes import n_processes
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.tracker.choice import choose_storage, storage_bytes

log = logging.getLogger(__name__)

FLOAT = 4
BYTES_OF_A_SLOT = 12  # a latent, and where it is found again
PAIR_TEMPORARIES = 4  # overlaps, weights, their product, a gradient
DENSE_COPIES_OF_A_BATCH = 5  # pre-activations, latents and their gradients
DENSE_COPIES_IN_EVALUATION = 3  # pre-activations, latents, and what is counted of them


def check_memory(
    cfg: DictConfig,
    model: LanguageModel,
    sae: SparseAutoencoder,
    source: ActivationSource,
    batch_size: int,
    evaluated_windows: int,
) -> dict[str, int]:
    """Bytes of a process by purpose; printed, and refused with them where they exceed what is free.

    The language model is already loaded; everything else is still to come.
    """
    d_sae, d_in = sae.d_sae, sae.d_in
    weights = sum(p.nbytes for p in sae.parameters())
    acts_bytes = {"float32": 4}.get(model.dtype, 2)
    vocab = int(model.model.config.get_text_config().vocab_size)
    evaluated = evaluated_windows * source.context_size
    budget = {
        "language model": model.nbytes(),
        "logits in evaluation": 6 * evaluated * vocab * FLOAT,
        "latents in evaluation": DENSE_COPIES_IN_EVALUATION * evaluated * d_sae * FLOAT,
        "SAE, gradients, Adam": 4 * weights,
        "batch": DENSE_COPIES_OF_A_BATCH * batch_size * d_sae * FLOAT,
        "shuffle buffer": source.buffer_tokens * d_in * acts_bytes,
        "tracker": tracker_bytes(cfg, sae, model.device),
        "penalty": penalty_bytes(cfg, sae),
    }
    free = free_memory(model.device)
    needed = sum(budget.values()) - budget["language model"]
    parts = " · ".join(f"{name} {size / 2**20:,.0f}" for name, size in budget.items())
    log.info("memory (MiB): %s · free %s", parts, f"{free / 2**20:,.0f}" if free else "unknown")
    if free is not None and needed > free:
        raise RunError(
            f"the run needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free on "
            f"{model.device} (MiB: {parts}); lower sae.d_sae, trainer.batch_size or "
            "activations.buffer_tokens, or use tracker=off"
        )
    return budget


def tracker_bytes(cfg: DictConfig, sae: SparseAutoencoder, device: torch.device) -> int:
    """The averages in the storage that will be chosen, and two windows with their indexes."""
    if "NoTracker" in cfg.tracker._target_:
        return 0
    window_size = int(cfg.tracker.window_size)
    k = min(getattr(sae, "k", None) or sae.d_sae, sae.d_sae)
    asked = cfg.tracker.get("storage", "reference")
    shards = n_processes() if cfg.tracker.get("sharded") else 1
    storage, _ = choose_storage(asked, sae.d_sae, k, window_size, device, shards)
    labels = min(sae.d_sae, window_size * k) if storage == "sparse" else sae.d_sae
    tokens_a_byte = 1 if device.type == "cuda" else 8
    windows = 2 * window_size * (BYTES_OF_A_SLOT * k + labels // tokens_a_byte)
    if storage == "sparse":  # its pairs are not known yet; they come as they are seen
        return windows
    return windows + storage_bytes(storage, sae.d_sae, k, window_size) // shards


def penalty_bytes(cfg: DictConfig, sae: SparseAutoencoder) -> int:
    """A dense gradient of the decoder, and the pairs that are looked at together."""
    tracked = "NoTracker" not in cfg.tracker._target_
    without_tracker = "Chunked" in cfg.loss._target_ or cfg.loss.get("weighting") == "uniform"
    if not cfg.loss.ortho_weight or not (tracked or without_tracker):
        return 0
    if "ConsecutiveLoss" in cfg.loss._target_:
        return PAIR_TEMPORARIES * sae.d_sae**2 * FLOAT
    return sae.W_dec.nbytes + PAIR_TEMPORARIES * BYTES_AT_ONCE
