"""Constraints on encoder and decoder that hold from the first step to the last.

`trainer.constraint` names one. It works with every architecture: it sees the weights, takes out of
a gradient what would leave the constraint, and puts the weights back onto it after a step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from temporal_sae.errors import InvalidOption
from temporal_sae.kernels import buffer_pool
from temporal_sae.kernels.overlap import EPSILON
from temporal_sae.loss.pairs import unit_rows
from temporal_sae.machine import Planned
from temporal_sae.sae import SparseAutoencoder

LEAST_COSINE = 0.8  # of a soft-frozen decoder row with its start (arXiv 2602.14111)


class Constraint:
    """None: encoder and decoder are free, but for what an architecture asks of them."""

    def planned_bytes(self, sae: SparseAutoencoder) -> dict[str, Planned]:
        """Return what is kept beside the weights."""
        return {}

    def start(self, sae: SparseAutoencoder) -> None:
        """Put the initial weights onto the constraint, and remember what it refers to."""

    def before_step(self, sae: SparseAutoencoder) -> None:
        """Take out of the gradients what would leave the constraint."""

    def after_step(self, sae: SparseAutoencoder) -> None:
        """Put the weights back onto the constraint."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue where `state` was taken."""


class Aligned(Constraint):
    """e_i · d_i = 1 for the encoder column e and the decoder row d of each latent.

    Aligned training (arXiv 2605.18629) reparametrises the SAE so that this holds. Here it is a
    constraint on the same weights: the gradient of e_i loses its part along d_i, and after a step
    e_i moves along d_i to the nearest point where e_i · d_i = 1. d_i gets no gradient through e_i.
    """

    @torch.no_grad()
    def start(self, sae: SparseAutoencoder) -> None:
        self.after_step(sae)

    @torch.no_grad()
    def before_step(self, sae: SparseAutoencoder) -> None:
        if sae.W_enc.grad is not None:
            directions, gradient = unit_rows(sae.W_dec), sae.W_enc.grad.T
            gradient -= (gradient * directions).sum(-1, keepdim=True) * directions

    @torch.no_grad()
    def after_step(self, sae: SparseAutoencoder) -> None:
        rows, columns = sae.W_dec, sae.W_enc.T
        missing = 1 - (columns * rows).sum(-1, keepdim=True)
        columns += missing / rows.square().sum(-1, keepdim=True).clamp(min=EPSILON) * rows


class Frozen(Constraint):
    """A matrix of weights stays, to the bit, what it is before the first step."""

    def __init__(self, name: str) -> None:
        self.name = name

    def before_step(self, sae: SparseAutoencoder) -> None:
        frozen = getattr(sae, self.name)
        if frozen.grad is not None:
            buffer_pool.release(frozen.grad)
        frozen.grad = None  # which the optimiser passes over


class SoftFrozenDecoder(Constraint):
    """Every decoder row keeps a cosine of at least .8 with what it is before the first step."""

    directions: Tensor

    def planned_bytes(self, sae: SparseAutoencoder) -> dict[str, Planned]:
        """Return the initial directions."""
        return {"initial decoder": Planned(sae.W_dec.nbytes, ("sae.d_sae",))}

    @torch.no_grad()
    def start(self, sae: SparseAutoencoder) -> None:
        self.directions = unit_rows(sae.W_dec)

    @torch.no_grad()
    def after_step(self, sae: SparseAutoencoder) -> None:
        """Turn rows that are too far to the nearest direction that is not, at the same length."""
        rows, start = sae.W_dec, self.directions
        along = (rows * start).sum(-1, keepdim=True)
        across = rows - along * start
        length = rows.norm(dim=-1, keepdim=True)
        across *= (1 - LEAST_COSINE**2) ** 0.5 / across.norm(dim=-1, keepdim=True).clamp(EPSILON)
        nearest = length * (LEAST_COSINE * start + across)
        rows.copy_(torch.where(along < LEAST_COSINE * length, nearest, rows))

    def state_dict(self) -> dict[str, Any]:
        return {"directions": self.directions}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.directions = state["directions"].to(device)


CONSTRAINTS: dict[str, Callable[[], Constraint]] = {
    "aligned": Aligned,
    "frozen_decoder": partial(Frozen, "W_dec"),
    "soft_frozen_decoder": SoftFrozenDecoder,
    "frozen_encoder": partial(Frozen, "W_enc"),
}


def make_constraint(name: str | None) -> Constraint:
    """Return a new constraint, one of `CONSTRAINTS`; for None one that asks nothing."""
    return Constraint() if name is None else CONSTRAINTS[name]()


def check_constraint(name: str | None, sae: SparseAutoencoder) -> None:
    """Raise InvalidOption unless an SAE can be trained under a constraint."""
    is_frozen = isinstance(make_constraint(name), Frozen)
    if is_frozen and getattr(sae, "resample_every", None) is not None:  # writes to both matrices
        raise InvalidOption(
            "constraint", name, "null, aligned or soft_frozen_decoder with sae.resample_every"
        )
