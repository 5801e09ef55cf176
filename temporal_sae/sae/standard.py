"""Standard: ReLU latents and an L1 penalty (Bricken et al. 2023, Cunningham et al. 2023)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from temporal_sae.errors import check_int, check_number
from temporal_sae.latents import Latents
from temporal_sae.loss.terms import l1_loss
from temporal_sae.sae.base import SparseAutoencoder, StepContext, StepOutput


class StandardSAE(SparseAutoencoder):
    """f = ReLU((x - b_dec) W_enc + b_enc) with unit decoder rows.

    Args:
        d_in: width of the activations.
        d_sae: number of latents, F.
        l1_weight: λ1, weight of E Σ f_i ‖d_i‖; training only.
        l1_warmup_steps: steps over which λ1 grows linearly from 0; training only.
    """

    architecture = "standard"

    def __init__(
        self, d_in: int, d_sae: int, l1_weight: float = 0.04, l1_warmup_steps: int = 0
    ) -> None:
        super().__init__(d_in, d_sae)
        self.l1_weight = check_number("l1_weight", l1_weight)
        self.l1_warmup_steps = check_int("l1_warmup_steps", l1_warmup_steps, 0)

    def config(self) -> dict[str, Any]:
        return {"d_in": self.d_in, "d_sae": self.d_sae}

    def encode_dense(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        return self.pre_activations(x).relu()

    def training_step(self, x: Float[Tensor, "tokens d_in"], context: StepContext) -> StepOutput:
        acts = self.encode_dense(x)
        warmth = min(1.0, (context.step + 1) / max(1, self.l1_warmup_steps))
        terms = {"l1": self.l1_weight * warmth * l1_loss(acts, self.W_dec)}
        return StepOutput(self.decode_dense(acts), Latents.from_dense(acts), terms)
