"""The older penalty of the reference transcript: pairs that fire on adjacent tokens weigh less."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.errors import check_number
from temporal_sae.latents import Latents
from temporal_sae.loss.overlap import FLOAT, PAIR_TEMPORARIES, SMALLER
from temporal_sae.loss.pairs import (
    PairWeights,
    activation_gram,
)
from temporal_sae.machine import Planned
from temporal_sae.registry import component


def consecutive_scores(window: Int[Tensor, "tokens k"], d_sae: int) -> Float[Tensor, "F F"]:
    """Rate at which two latents fire on adjacent tokens, either one first; symmetric, in [0, 1].

    With A_ij the number of t at which i is active at t and j at t + 1, this is
    (A_ij + A_ji) / (2 (tokens - 1)).
    """
    mask = torch.zeros(window.shape[0], d_sae + 1, device=window.device)
    mask = mask.scatter(1, torch.where(window >= 0, window, d_sae).long(), 1.0)[:, :d_sae]
    adjacent = mask[:-1].T @ mask[1:]
    return (adjacent + adjacent.T) / (2 * max(1, window.shape[0] - 1))


@component("loss")
class ConsecutiveLoss:
    """Σ_{i≠j} c_ij (1 + β q_ij) (f_iᵀf_j / B)² / F²: pair intersections times activation overlap.

    c is the tracker's rate in its last closed window and q the consecutive score in the same
    window. q means what its name says only where the tracker sees text in order
    (`tracker.stream=ordered`); on shuffled batches it measures chance.

    Args:
        ortho_weight: λ2. With 0 nothing is computed at all.
        beta: β, -0.05 in the transcript.
    """

    through_latents = True
    needs_tracker = True

    def __init__(self, ortho_weight: float = 0.1, beta: float = -0.05) -> None:
        self.ortho_weight = check_number("ortho_weight", ortho_weight)
        self.beta = check_number("beta", beta, minimum=-1.0)

    def planned_bytes(self, n_latents: int, d_in: int) -> dict[str, Planned]:
        """Matrices of all pairs."""
        return {"penalty": Planned(PAIR_TEMPORARIES * n_latents**2 * FLOAT, SMALLER)}

    def check_tracker(self, tracker: PairWeights) -> None:
        """Any tracker will do."""

    def __call__(
        self, W_dec: Float[Tensor, "F d_in"], tracker: PairWeights, latents: Latents | None = None
    ) -> Float[Tensor, ""]:
        """λ2 times the penalty; 0 until the tracker has closed a window."""
        window = tracker.last_window
        if self.ortho_weight == 0 or window is None:
            return W_dec.new_zeros(())
        if latents is None:
            raise ValueError("the consecutive penalty needs the latents of the batch")
        d_sae = W_dec.shape[0]
        scores = consecutive_scores(window, d_sae)
        weights = (tracker.rate_matrix() * (1 + self.beta * scores)).to(W_dec.device)
        total = (weights * activation_gram(latents, d_sae).square()).sum()
        return self.ortho_weight * total / d_sae**2
