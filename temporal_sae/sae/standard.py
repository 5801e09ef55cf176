"""Standard: ReLU latents and an L1 penalty (Bricken et al. 2023, Cunningham et al. 2023)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from temporal_sae.distributed import all_gather
from temporal_sae.errors import check_choice, check_int, check_number
from temporal_sae.registry import component
from temporal_sae.sae.base import SparseAutoencoder, StepContext, StepOutput
from temporal_sae.sae.resampling import resample


@component("sae")
class StandardSAE(SparseAutoencoder):
    """f = ReLU((x - b_dec) W_enc + b_enc).

    Args:
        d_in: width of the activations.
        d_sae: number of latents, F.
        l1_weight: λ1, weight of E Σ f_i ‖d_i‖; training only.
        l1_warmup_steps: steps over which λ1 grows linearly from 0; training only.
        decoder: `unit` keeps its rows at length 1; `free` leaves their length to the L1 term,
            which counts it (Anthropic, April 2024 update); training only.
        resample_every: steps after which latents that are dead by then are made anew from tokens
            that are badly reconstructed (Bricken et al. 2023); null: never; training only.

    Raises:
        InvalidOption: an option is out of range.
    """

    architecture = "standard"
    reference_names = ("StandardTrainer", "AutoEncoder")
    reference_options: ClassVar[dict[str, str]] = {
        "l1_penalty": "l1_weight",
        "resample_steps": "resample_every",
    }

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        l1_weight: float = 0.04,
        l1_warmup_steps: int = 0,
        decoder: str = "unit",
        resample_every: int | None = None,
    ) -> None:
        super().__init__(d_in, d_sae)
        self.l1_weight = check_number("l1_weight", l1_weight)
        self.l1_warmup_steps = check_int("l1_warmup_steps", l1_warmup_steps, 0)
        self.unit_decoder = check_choice("decoder", decoder, ("unit", "free")) == "unit"
        self.resample_every = (
            None if resample_every is None else check_int("resample_every", resample_every, 1)
        )

    def encode_dense(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        return self.pre_activations(x).relu()

    def training_step(self, x: Float[Tensor, "tokens d_in"], context: StepContext) -> StepOutput:
        encoded = self.encoded(x)
        chosen = self.choose(encoded.pre_acts, self.b_enc.new_zeros(self.d_sae), context)
        acts = encoded.take(chosen).relu()
        x_hat = chosen.decode(acts, self.W_dec).add_(self.b_dec)
        warmth = min(1.0, (context.step + 1) / max(1, self.l1_warmup_steps))
        l1 = self.l1_weight * warmth * chosen.l1(acts, self.W_dec)
        return self.output(chosen, acts, x_hat, {"l1": l1})

    def after_step(
        self, x: Float[Tensor, "tokens d_in"], out: StepOutput, context: StepContext
    ) -> Bool[Tensor, " d_sae"] | None:
        """Make dead latents anew, every `resample_every` steps."""
        due = self.resample_every and (context.step + 1) % self.resample_every == 0
        if not due or context.dead is None:
            return None
        x, x_hat = (torch.cat(all_gather(part.detach())) for part in (x, out.x_hat))
        resample(self, x, x_hat, context.dead)
        return context.dead
