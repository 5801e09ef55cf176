"""The optimiser's state in a form that checkpoints can hold."""

from __future__ import annotations

from typing import Any

import torch


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its per-parameter tensors, under the number of each parameter."""
    return {str(n): dict(tensors) for n, tensors in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put the tensors back; the options stay those the optimiser was built with."""
    current = optimizer.state_dict()
    current["state"] = {int(n): tensors for n, tensors in state.items()}
    optimizer.load_state_dict(current)
