"""torch.compile for the SAE's part of a step."""

from __future__ import annotations

import torch

from temporal_sae import distributed
from temporal_sae.kernels import selection, sparse_products
from temporal_sae.sae import SparseAutoencoder

OUTSIDE = {  # what a step calls
    selection: ("select_topk", "kth_largest", "list_above"),
    sparse_products: ("list_by_latent", "sum_by_latent"),
    distributed: ("all_gather", "all_reduce_min", "all_reduce_mean"),
}


def compile_step(sae: SparseAutoencoder) -> None:
    """Let torch compile `sae.training_step`; our own kernels stay outside of what it sees.

    Following a call into numba it fails, so those functions are marked as not to be followed. That
    cannot be done where they are defined: it would import the compiler, which takes a second, into
    every run.
    """
    for module, names in OUTSIDE.items():
        for name in names:
            setattr(module, name, torch.compiler.disable(getattr(module, name)))
    sae.training_step = torch.compile(sae.training_step)  # type: ignore[method-assign]
