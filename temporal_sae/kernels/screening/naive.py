"""Screening in plain torch: the meaning of the operations of this group.

`x` is float32 [B, d], `W` [F, d] has a latent's encoder in each row, `bias` is [F]; pre-activations
are x Wᵀ + bias. The other back ends never hold all of them: they find the same latents, but for
those that differ from the least by no more than rounding, or None where that is not quicker.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels.selection import naive as selection


class Found(NamedTuple):
    """Latents that were looked for.

    Attributes:
        values: their pre-activations, float32, 0 in empty slots.
        indices: int64, ascending in each token, -1 in empty slots at the end.
        n_scored: pre-activations that were computed exactly; B F without screening.
        n_unsettled: tokens of which all pre-activations were computed.
    """

    values: Float[Tensor, "B K"]
    indices: Int[Tensor, "B K"]
    n_scored: int
    n_unsettled: int


def largest(
    x: Float[Tensor, "B d"], W: Float[Tensor, "F d"], bias: Float[Tensor, " F"], k: int
) -> Found | None:
    """Return the k largest positive pre-activations of each token."""
    pre_acts = torch.addmm(bias, x, W.T)
    values, indices = selection.select_topk(pre_acts, k)
    order = indices.masked_fill(indices < 0, len(W)).argsort(1)
    return _found(values.gather(1, order), indices.gather(1, order), pre_acts)


def largest_of_all(
    x: Float[Tensor, "B d"], W: Float[Tensor, "F d"], bias: Float[Tensor, " F"], n: int
) -> Found | None:
    """Return what reaches the n-th largest positive pre-activation of the batch.

    Where there are fewer these are all positive ones.
    """
    pre_acts = torch.addmm(bias, x, W.T)
    least = selection.kth_largest(pre_acts, n)
    below = torch.nextafter(least, torch.zeros_like(least))
    return _all_above(pre_acts, below.expand(len(W)))


def above(
    x: Float[Tensor, "B d"],
    W: Float[Tensor, "F d"],
    bias: Float[Tensor, " F"],
    thresholds: Float[Tensor, " F"],
) -> Found | None:
    """Return the pre-activations that exceed the latent's threshold, which is not negative."""
    return _all_above(torch.addmm(bias, x, W.T), thresholds)


def is_fast(device: torch.device) -> bool:
    """Return whether the device has the instructions that make screening worth while."""
    return False


def _all_above(pre_acts: Float[Tensor, "B F"], thresholds: Float[Tensor, " F"]) -> Found:
    indices = selection.list_above(pre_acts, thresholds)
    values = pre_acts.gather(1, indices.clamp(min=0)).masked_fill(indices < 0, 0.0)
    return _found(values, indices, pre_acts)


def _found(values: Tensor, indices: Tensor, pre_acts: Tensor) -> Found:
    return Found(values, indices, pre_acts.numel(), len(pre_acts))
