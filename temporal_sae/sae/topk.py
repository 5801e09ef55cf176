"""TopK: the k largest latents of each token (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from temporal_sae.errors import InvalidOption, check_int, check_number
from temporal_sae.latents import Latents
from temporal_sae.loss.terms import auxk_loss
from temporal_sae.sae.base import SparseAutoencoder, StepContext, StepOutput


class TopKSAE(SparseAutoencoder):
    """f = ReLU(TopK((x - b_dec) W_enc + b_enc)).

    Args:
        d_in: width of the activations.
        d_sae: number of latents, F.
        k: active latents a token, at most; a slot whose pre-activation is not positive stays off.
        auxk_weight: weight of the AuxK term that revives dead latents; training only.
        k_aux: dead latents used by AuxK a token; null for d_in / 2; training only.

    Raises:
        InvalidOption: k or k_aux exceeds d_sae, or an option is out of range.
    """

    architecture = "topk"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        auxk_weight: float = 1 / 32,
        k_aux: int | None = None,
    ) -> None:
        self._check_k(k, d_sae)
        super().__init__(d_in, d_sae)
        self.k = k
        self.auxk_weight = check_number("auxk_weight", auxk_weight)
        wanted = max(1, d_in // 2) if k_aux is None else check_int("k_aux", k_aux, 1)
        self.k_aux = min(wanted, d_sae)

    @staticmethod
    def _check_k(k: int, d_sae: int) -> None:
        if check_int("k", k, 1) > check_int("d_sae", d_sae, 1):
            raise InvalidOption("k", k, f"at most d_sae={d_sae}")

    def config(self) -> dict[str, Any]:
        return {"d_in": self.d_in, "d_sae": self.d_sae, "k": self.k}

    def default_lr(self) -> float:
        """2e-4 / √(F / 2^14), the rule of Gao et al. that the reference runs used."""
        return 2e-4 / (self.d_sae / 2**14) ** 0.5

    def _select(self, pre_acts: Float[Tensor, "tokens d_sae"]) -> Latents:
        values, indices = pre_acts.topk(self.k, dim=-1, sorted=False)
        return Latents(values.relu(), indices)

    def encode(self, x: Float[Tensor, "tokens d_in"]) -> Latents:
        """The k candidates of each token; those with value 0 are not active."""
        return self._select(self.pre_activations(x))

    def encode_dense(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        return self.encode(x).to_dense(self.d_sae)

    def training_step(self, x: Float[Tensor, "tokens d_in"], context: StepContext) -> StepOutput:
        pre_acts = self.pre_activations(x)
        latents = self._select(pre_acts)
        x_hat = self.decode_dense(latents.to_dense(self.d_sae))
        terms: dict[str, Tensor] = {}
        if context.dead is not None and self.auxk_weight:
            aux = auxk_loss(x - x_hat, pre_acts, context.dead, self.W_dec, self.k_aux)
            terms["auxk"] = self.auxk_weight * aux
        return StepOutput(x_hat, latents, terms)
