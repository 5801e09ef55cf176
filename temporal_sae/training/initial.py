"""The point with the least summed distance to a cloud of points."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def geometric_median(
    points: Float[Tensor, "n d"], iterations: int = 100, tolerance: float = 1e-6
) -> Float[Tensor, " d"]:
    """Weiszfeld's algorithm, stopped when a move is below `tolerance` of the distance scale."""
    median = points.mean(0)
    for _ in range(iterations):
        distance = (points - median).norm(dim=-1).clamp(min=1e-12)
        weights = 1 / distance
        moved = (points * weights[:, None]).sum(0) / weights.sum()
        if float((moved - median).norm()) <= tolerance * float(distance.mean()):
            return moved
        median = moved
    return median
