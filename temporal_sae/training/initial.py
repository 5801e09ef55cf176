"""Initial weights that a sample of the data decides."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.distributed import all_reduce_sum
from temporal_sae.errors import RunError
from temporal_sae.loss.terms import is_constant
from temporal_sae.sae import SparseAutoencoder, StepContext


def check_sample(sample: Float[Tensor, "n d"]) -> None:
    """Refuse activations of which nothing can be learned.

    Raises:
        RunError: some are not finite, or all are equal.
    """
    if not bool(sample.isfinite().all()):
        raise RunError(
            "the first activations are not finite; look at where they come from (of a language "
            "model at model.dtype and its text)"
        )
    spread, square = sample.var(0, correction=0).sum(), sample.square().sum(-1).mean()
    if is_constant(float(spread), float(square)):
        raise RunError(
            "the first activations are all equal, so there is nothing to explain; "
            "look at where they come from (of a language model at model.hook_name and its text)"
        )


@torch.no_grad()
def geometric_median(
    points: Float[Tensor, "n d"], iterations: int = 100, tolerance: float = 1e-6
) -> Float[Tensor, " d"]:
    """Return the point with the least summed distance to a cloud of points.

    Weiszfeld's algorithm, stopped when a move is below `tolerance` of the distance scale.
    """
    median = points.mean(0)
    for _ in range(iterations):
        distance = (points - median).norm(dim=-1).clamp(min=1e-12)
        weights = 1 / distance
        moved = (points * weights[:, None]).sum(0) / weights.sum()
        if float((moved - median).norm()) <= tolerance * float(distance.mean()):
            return moved
        median = moved
    return median


@torch.no_grad()
def fit_encoder(sae: SparseAutoencoder, x: Float[Tensor, "tokens d_in"]) -> None:
    """Multiply W_enc by the number that lets s (x̂ - b_dec) come nearest to x - b_dec.

    With a tied encoder the many latents that are active at first add up to more, or less, than the
    input; training would spend its first steps on their common size. Nothing changes where the
    reconstruction has no part along the input. Of several processes each gives a part of x.
    """
    before_training = StepContext(step=-1)
    centered = x - sae.b_dec
    x_hat = sae.training_step(x, before_training).x_hat - sae.b_dec
    along, length = all_reduce_sum((x_hat * centered).sum()), all_reduce_sum(x_hat.square().sum())
    scale = along / length
    sae.W_enc.mul_(torch.where(scale > 0, scale, 1.0))
