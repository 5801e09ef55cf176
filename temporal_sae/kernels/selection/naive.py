"""Choosing latents in plain torch: the meaning of the operations of this group."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def select_topk(pre_acts: Float[Tensor, "B F"], k: int) -> tuple[Tensor, Tensor]:
    """Return values float32 and indices [B, k] of the k largest positive entries of each row.

    Where there are fewer, slots at the end have value 0 and index -1. NaN counts as the largest.
    """
    values, indices = pre_acts.float().topk(k, dim=-1)
    empty = values <= 0
    return values.masked_fill(empty, 0.0), indices.masked_fill(empty, -1)


def kth_largest(pre_acts: Float[Tensor, "B F"], n: int) -> Float[Tensor, ""]:
    """Return the n-th largest of all positive entries; 0 where there are fewer."""
    return pre_acts.float().flatten().topk(n).values[-1].clamp(min=0)


def list_above(
    pre_acts: Float[Tensor, "B F"], thresholds: Float[Tensor, " F"]
) -> Int[Tensor, "B K"]:
    """List where entries of each row exceed the thresholds (or are NaN), ascending.

    K is the largest number in any row, at least 1; -1 after them. On a GPU this waits.
    """
    above = ~(pre_acts <= thresholds)
    width = max(1, int(above.sum(-1).max())) if above.numel() else 1
    order = (~above).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]
    return order.masked_fill(~above.gather(1, order), -1)
