"""Gated: which latents are active is decided apart from how much (2404.16014)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temporal_sae.errors import check_choice, check_int, check_number
from temporal_sae.latents import as_rows, with_leading
from temporal_sae.loss.terms import RECONSTRUCTIONS, reconstruction_loss
from temporal_sae.registry import component
from temporal_sae.sae.base import SparseAutoencoder, StepContext, StepOutput


@component("sae")
class GatedSAE(SparseAutoencoder):
    """f = H(π) ReLU(m) with u = (x - b_dec) W_enc, π = u + b_gate and m = exp(r_mag) u + b_mag.

    Rajamanoharan et al. 2024, arXiv 2404.16014. The L1 norm of ReLU(π) is penalised, and ReLU(π)
    has to reconstruct as well, by a decoder that this leaves alone. `b_enc` is b_gate here.

    Args:
        d_in: width of the activations.
        d_sae: number of latents, F.
        l1_weight: λ1, weight of E Σ ReLU(π_i) ‖d_i‖; training only.
        l1_warmup_steps: steps over which λ1 grows linearly from 0; training only.
        aux_reconstruction: how the second reconstruction counts: `fvu`, `sse` or `norm`; best the
            same as `trainer.reconstruction`; training only.

    Raises:
        InvalidOption: an option is out of range.
    """

    architecture = "gated"
    reference_names = ("GatedSAETrainer", "GatedAutoEncoder")
    reference_options: ClassVar[dict[str, str]] = {"l1_penalty": "l1_weight"}
    activation_fn = "gated"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        l1_weight: float = 0.04,
        l1_warmup_steps: int = 0,
        aux_reconstruction: str = "fvu",
    ) -> None:
        super().__init__(d_in, d_sae)
        self.l1_weight = check_number("l1_weight", l1_weight)
        self.l1_warmup_steps = check_int("l1_warmup_steps", l1_warmup_steps, 0)
        self.aux_reconstruction = check_choice(
            "aux_reconstruction", aux_reconstruction, RECONSTRUCTIONS
        )
        self.r_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(self.d_sae))

    def encode_dense(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        product = (as_rows(x) - self.b_dec) @ self.W_enc
        magnitude = (product * self.r_mag.exp() + self.b_mag).relu()
        return with_leading(magnitude * (product + self.b_enc > 0), x.shape[:-1])

    def training_step(self, x: Float[Tensor, "tokens d_in"], context: StepContext) -> StepOutput:
        encoded = self.encoded(x)
        chosen = self.choose(encoded.pre_acts, self.b_enc.new_zeros(self.d_sae), context)
        gate = encoded.take(chosen)
        product = gate - chosen.take(self.b_enc)
        scale, bias = chosen.take(self.r_mag.exp()), chosen.take(self.b_mag)
        acts = (product * scale + bias).relu() * (gate > 0)
        opening = gate.relu()
        x_hat = chosen.decode(acts, self.W_dec).add_(self.b_dec)
        by_gate = chosen.decode(opening, self.W_dec.detach()).add_(self.b_dec.detach())
        warmth = min(1.0, (context.step + 1) / max(1, self.l1_warmup_steps))
        terms = {
            "l1": self.l1_weight * warmth * chosen.l1(opening, self.W_dec),
            "gate_reconstruction": reconstruction_loss(self.aux_reconstruction, x, by_gate),
        }
        return self.output(chosen, acts, x_hat, terms)

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        super().fold_input_scale(scale)
        self.b_mag.mul_(scale)

    def weights(self) -> dict[str, Tensor]:
        weights = super().weights()
        gate = weights.pop("b_enc")
        return {**weights, "b_gate": gate, "r_mag": self.r_mag, "b_mag": self.b_mag}
