"""torch.compile for the SAE's part of a step."""

from __future__ import annotations

import torch

from temporal_sae import distributed
from temporal_sae.kernels import step_kernels_for
from temporal_sae.sae import SparseAutoencoder

OPERATIONS = ("select_topk", "kth_largest", "list_above", "list_by_latent", "sum_by_latent")
COLLECTIVES = ("all_gather", "all_reduce_min", "all_reduce_mean")


def compile_step(sae: SparseAutoencoder) -> None:
    """Let torch compile `sae.training_step`; our own kernels stay outside of what it sees.

    Following a call into numba it fails, so those functions are marked as not to be followed. That
    cannot be done where they are defined: it would import the compiler, which takes a second, into
    every run.
    """
    kernels = step_kernels_for(sae.W_dec.device)
    for module, names in ((kernels, OPERATIONS), (distributed, COLLECTIVES)):
        for name in names:
            setattr(module, name, torch.compiler.disable(getattr(module, name)))
    sae.training_step = torch.compile(sae.training_step)  # type: ignore[method-assign]
