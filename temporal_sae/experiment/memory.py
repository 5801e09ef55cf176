"""What a run will need in memory, said before it is allocated."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from omegaconf import DictConfig

from temporal_sae.activations import ActivationSource, LanguageModel
from temporal_sae.errors import RunError
from temporal_sae.sae import SparseAutoencoder

log = logging.getLogger(__name__)

FLOAT = 4
MATRICES_OF_THE_TRACKER = 6  # c, reference, average, and three while a window closes
PAIR_TEMPORARIES = 4  # overlaps, weights, their product, a gradient
DENSE_COPIES_OF_A_BATCH = 5  # pre-activations, latents and their gradients


def check_memory(
    cfg: DictConfig,
    model: LanguageModel,
    sae: SparseAutoencoder,
    source: ActivationSource,
    batch_size: int,
) -> dict[str, int]:
    """Bytes by purpose; printed, and refused with the numbers where they exceed what is free.

    The language model is already loaded; everything else is still to come.
    """
    d_sae, d_in = sae.d_sae, sae.d_in
    weights = sum(p.nbytes for p in sae.parameters())
    acts_bytes = {"float32": 4}.get(model.dtype, 2)
    vocab = int(model.model.config.get_text_config().vocab_size)
    tracked = "NoTracker" not in cfg.tracker._target_
    budget = {
        "language model": model.nbytes(),
        "logits in evaluation": 6 * source.batch_windows * source.context_size * vocab * FLOAT,
        "SAE, gradients, Adam": 4 * weights,
        "batch": DENSE_COPIES_OF_A_BATCH * batch_size * d_sae * FLOAT,
        "shuffle buffer": source.buffer_tokens * d_in * acts_bytes,
        "tracker": MATRICES_OF_THE_TRACKER * d_sae**2 * FLOAT if tracked else 0,
        "penalty": penalty_bytes(cfg, sae) if tracked else 0,
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


def penalty_bytes(cfg: DictConfig, sae: SparseAutoencoder) -> int:
    """The smaller of the pairs of all latents and those of the sampled tokens, and their rows."""
    every_pair = PAIR_TEMPORARIES * sae.d_sae**2 * FLOAT
    k = getattr(sae, "k", None)
    if k is None or cfg.loss.get("estimator", "exact") == "exact":
        return every_pair
    tokens = int(cfg.loss.sample_tokens)
    return min(every_pair, tokens * k * FLOAT * (2 * PAIR_TEMPORARIES * k + 3 * sae.d_in))


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
