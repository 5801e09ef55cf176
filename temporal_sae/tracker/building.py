"""The state of a tracker, from the name of its storage."""

from __future__ import annotations

import torch

from temporal_sae.tracker.alpha import AlphaRule
from temporal_sae.tracker.dense import DenseAverages
from temporal_sae.tracker.processes import ShardedAverages, shard_rows
from temporal_sae.tracker.reference import ReferenceState
from temporal_sae.tracker.sparse import SparseAverages
from temporal_sae.tracker.state import Averages, PairState, WindowedState


def new_state(
    storage: str,
    n_latents: int,
    alpha: AlphaRule,
    device: torch.device,
    sharded: bool,
    prune_below: float,
) -> PairState:
    """Return the state of a tracker that has closed no window.

    Args:
        storage: `dense`, `sparse` or `reference`.
        n_latents, alpha, device, sharded, prune_below: see `CoActivationTracker`.
    """
    if storage == "reference":
        return ReferenceState(n_latents, alpha, device)
    rows = shard_rows(n_latents) if sharded else None
    averages: Averages
    if storage == "dense":
        averages = DenseAverages(n_latents, device, rows)
    else:
        averages = SparseAverages(n_latents, device, rows, prune_below)
    if sharded:
        averages = ShardedAverages(averages)
    return WindowedState(n_latents, alpha, averages)
