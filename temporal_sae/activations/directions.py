"""Directions of the features of a world."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

STEP = 0.05


def draw_directions(
    n: int, d_in: int, orthogonal_steps: int, generator: torch.Generator
) -> Float[Tensor, "n d_in"]:
    """Return random unit rows, float32, pushed apart by so many steps of Adam on Σ_{i≠j} cos⁴.

    More directions than dimensions cannot be orthogonal; the fourth power takes the largest
    overlaps away first. A trained model keeps its features apart in the same way, and what remains
    is what a penalty on overlaps cannot remove either.
    """
    directions = torch.randn(n, d_in, generator=generator)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    if not orthogonal_steps:
        return directions
    # Twice the digits: the number of threads must not show in those that are kept.
    rows = directions.double().requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=STEP)
    with torch.enable_grad():
        for _ in range(orthogonal_steps):
            unit = normalize(rows, dim=-1)
            overlaps = (unit @ unit.T).square().square().sum()  # those of a row with itself are 1
            (rows.grad,) = torch.autograd.grad(overlaps, rows)
            optimizer.step()
    return normalize(rows.detach(), dim=-1).float()
