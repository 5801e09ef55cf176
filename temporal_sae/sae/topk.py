"""TopK: the k largest latents of each token (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.errors import InvalidOption, check_int, check_number
from temporal_sae.kernels import screening, selection
from temporal_sae.latents import Latents, as_rows
from temporal_sae.registry import component
from temporal_sae.sae.base import SparseAutoencoder, StepContext, StepOutput
from temporal_sae.sae.step_ops import Chosen, Encoded, prefers_sparse


@component("sae")
class TopKSAE(SparseAutoencoder):
    """f = ReLU(TopK((x - b_dec) W_enc + b_enc)).

    Args:
        d_in: width of the activations.
        d_sae: number of latents, F.
        k: active latents per token, at most; a slot whose pre-activation is not positive stays off.
        auxk_weight: weight of the AuxK term that revives dead latents; training only.
        k_aux: dead latents used by AuxK a token; null for d_in / 2; training only.

    Raises:
        InvalidOption: k or k_aux exceeds d_sae, or an option is out of range.
    """

    architecture = "topk"
    reference_names = ("TrainerTopK", "AutoEncoderTopK")
    reference_options: ClassVar[dict[str, str]] = {"k": "k"}
    activation_fn = "topk"
    config_keys = ("d_in", "d_sae", "k")
    can_screen = True

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        auxk_weight: float = 1 / 32,
        k_aux: int | None = None,
    ) -> None:
        self.k = check_k(k, d_sae)
        super().__init__(d_in, d_sae)
        self.tracked_latents = self.k
        self.auxk_weight = check_number("auxk_weight", auxk_weight)
        self.k_aux = choose_k_aux(k_aux, self.d_in, self.d_sae)

    def most_rows(self, batch_size: int) -> int | None:
        return min(self.d_sae, self.k * batch_size)

    def default_lr(self) -> float:
        """2e-4 / √(F / 2^14), the rule of Gao et al. that the reference runs used."""
        return 2e-4 / (self.d_sae / 2**14) ** 0.5

    def encode(self, x: Float[Tensor, "*tokens d_in"]) -> Latents:
        """Return the k candidates of each token; those with value 0 are not active."""
        pre_acts = as_rows(self.pre_activations(x))
        if pre_acts.dtype != torch.float32:  # for which there is no kernel
            return Latents(*pre_acts.relu().topk(self.k)).with_leading(x.shape[:-1])
        _, indices = selection.select_topk(pre_acts.detach(), self.k)
        values = pre_acts.gather(1, indices.clamp(min=0)) * (indices >= 0)
        return Latents(values, indices).with_leading(x.shape[:-1])

    def encode_dense(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        return self.encode(x).to_dense(self.d_sae)

    def training_step(self, x: Float[Tensor, "tokens d_in"], context: StepContext) -> StepOutput:
        encoded = self.encoded(x, context.gradients)
        found = None
        if self.screens(x, self.k, context):
            found = encoded.screened(screening.largest, self.k)
        chosen, acts = found or self._largest(encoded, context)
        x_hat = chosen.decode(acts, self.W_dec).add_(self.b_dec)
        terms = self.auxk_terms(x, x_hat, self.auxk_weight, self.k_aux, context)
        return self.output(chosen, acts, x_hat, terms, metrics=encoded.metrics)

    def _largest(self, encoded: Encoded, context: StepContext) -> tuple[Chosen, Tensor]:
        _, indices = selection.select_topk(encoded.pre_acts, self.k)
        sparse = context.sparse
        if sparse is None:
            sparse = prefers_sparse(indices.device, self.d_sae, self.k)
        chosen = Chosen(self.d_sae, indices, sparse, encoded.gradients)
        return chosen, encoded.take(chosen)


def check_k(k: int, d_sae: int) -> int:
    """Return k if it is from 1 to d_sae, else raise InvalidOption."""
    if check_int("k", k, 1) > check_int("d_sae", d_sae, 1):
        raise InvalidOption("k", k, f"at most d_sae={d_sae}")
    return int(k)


def choose_k_aux(k_aux: int | None, d_in: int, d_sae: int) -> int:
    """Return k_aux if it is from 1 to d_sae; by default half the width (Gao et al. 2024)."""
    if k_aux is None:
        return min(max(1, d_in // 2), d_sae)
    if check_int("k_aux", k_aux, 1) > d_sae:
        raise InvalidOption("k_aux", k_aux, f"at most d_sae={d_sae}")
    return int(k_aux)
