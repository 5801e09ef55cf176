"""JumpReLU: a learned threshold for each latent (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from temporal_sae import distributed
from temporal_sae.errors import check_int, check_number
from temporal_sae.kernels import screening
from temporal_sae.registry import component
from temporal_sae.sae.base import SparseAutoencoder, StepContext, StepOutput


@component("sae")
class JumpReLUSAE(SparseAutoencoder):
    """f = z H(z - θ) with z = (x - b_dec) W_enc + b_enc and θ ≥ 0.

    θ learns by straight-through estimates from all z within half a bandwidth of it, active or not:
    ∂f/∂θ = -θ/ε and ∂H(z - θ)/∂θ = -1/ε there, 0 elsewhere (equations 11 and 12 of the paper).

    Args:
        d_in: width of the activations.
        d_sae: number of latents, F.
        l0_target: T; the sparsity term is λ1 (L0/T - 1)². null: it is λ1 L0; training only.
        l0_weight: λ1; training only.
        l0_warmup_steps: steps over which λ1 grows linearly from 0; training only.
        initial_threshold: θ at the start, for all latents.
        bandwidth: ε, on the scale of pre-activations; training only.

    Raises:
        InvalidOption: an option is out of range.
    """

    architecture = "jumprelu"
    reference_names = ("JumpReluTrainer", "JumpReluAutoEncoder")
    reference_options: ClassVar[dict[str, str]] = {
        "l0_target": "l0_target",
        "l0_weight": "l0_weight",
    }
    activation_fn = "jumprelu"
    can_screen = True

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        l0_target: float | None = 32.0,
        l0_weight: float = 1.0,
        l0_warmup_steps: int = 0,
        initial_threshold: float = 0.001,
        bandwidth: float = 0.001,
    ) -> None:
        super().__init__(d_in, d_sae)
        self.l0_target = (
            None if l0_target is None else check_number("l0_target", l0_target, above=True)
        )
        self.l0_weight = check_number("l0_weight", l0_weight)
        self.l0_warmup_steps = check_int("l0_warmup_steps", l0_warmup_steps, 0)
        theta = check_number("initial_threshold", initial_threshold)
        self.bandwidth = check_number("bandwidth", bandwidth, above=True)
        self.threshold = nn.Parameter(torch.full((self.d_sae,), theta))

    def encode_dense(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        z = self.pre_activations(x)
        return z.relu() * (z > self.threshold)

    def training_step(self, x: Float[Tensor, "tokens d_in"], context: StepContext) -> StepOutput:
        encoded = self.encoded(x)
        # θ learns from what is just below it, too.
        reach = (self.threshold - self.bandwidth / 2).detach().clamp(min=0)
        found = None
        if self.l0_target is not None and self.screens(x, math.ceil(self.l0_target), context):
            found = encoded.screened(screening.above, reach)
        if found is None:
            chosen = self.choose(encoded.pre_acts, reach, context)
            found = chosen, encoded.take(chosen)
        chosen, z = found
        theta = chosen.take(self.threshold)
        acts = _Jump.apply(z, theta, self.bandwidth)
        l0 = of_all(_Step.apply(z, theta, self.bandwidth).sum(-1).mean())
        x_hat = chosen.decode(acts, self.W_dec).add_(self.b_dec)
        weight = self.l0_weight * min(1.0, (context.step + 1) / max(1, self.l0_warmup_steps))
        excess = l0 if self.l0_target is None else (l0 / self.l0_target - 1).square()
        return self.output(chosen, acts, x_hat, {"l0": weight * excess}, metrics=encoded.metrics)

    @torch.no_grad()
    def after_step(
        self, x: Float[Tensor, "tokens d_in"], out: StepOutput, context: StepContext
    ) -> Bool[Tensor, " d_sae"] | None:
        """Thresholds stay at 0 or above."""
        self.threshold.clamp_(min=0)
        return None

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        super().fold_input_scale(scale)
        self.threshold.mul_(scale)

    def weights(self) -> dict[str, Tensor]:
        return {**super().weights(), "threshold": self.threshold}


def of_all(l0: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the mean over processes, with the gradient of this one: it is averaged later."""
    if distributed.world_size() == 1:
        return l0
    return l0 + (distributed.all_reduce_mean(l0) - l0).detach()


class _Jump(torch.autograd.Function):
    """z H(z - θ)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return z * (z > theta)

    @staticmethod
    def backward(ctx: Any, by_acts: Tensor) -> tuple[Tensor, Tensor, None]:
        z, theta = ctx.saved_tensors
        near = _near(z, theta, ctx.bandwidth)
        by_theta = by_acts * near * (-theta / ctx.bandwidth)
        return by_acts * (z > theta), by_theta.sum_to_size(theta.shape), None


class _Step(torch.autograd.Function):
    """H(z - θ), whose slope by z is left out (the paper's equation 12)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return (z > theta).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, by_steps: Tensor) -> tuple[None, Tensor, None]:
        z, theta = ctx.saved_tensors
        by_theta = by_steps * _near(z, theta, ctx.bandwidth) / -ctx.bandwidth
        return None, by_theta.sum_to_size(theta.shape), None


def _near(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    """Return the rectangular kernel: within half a bandwidth, and above 0 as every candidate is."""
    return ((z - theta).abs() < bandwidth / 2) & (z > 0)
