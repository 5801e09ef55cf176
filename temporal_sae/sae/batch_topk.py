"""BatchTopK: the B·k largest latents of a batch (Bussmann et al. 2024, arXiv 2412.06410)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae import distributed
from temporal_sae.errors import check_int, check_number
from temporal_sae.kernels import screening, selection
from temporal_sae.registry import component
from temporal_sae.sae.base import TRACKED_LATENTS, SparseAutoencoder, StepContext, StepOutput
from temporal_sae.sae.step_ops import Chosen, Encoded
from temporal_sae.sae.topk import check_k, choose_k_aux


@component("sae")
class BatchTopKSAE(SparseAutoencoder):
    """In training f keeps the B·k largest pre-activations of a batch, those equal to the last too.

    Afterwards a latent is active where its pre-activation exceeds one threshold for all, a running
    average of the least that was active in a batch. A batch does not matter then, and the function
    is a JumpReLU SAE's, as which it is saved.

    Args:
        d_in: width of the activations.
        d_sae: number of latents, F.
        k: active latents per token on average.
        auxk_weight: weight of the AuxK term that revives dead latents; training only.
        k_aux: dead latents used by AuxK a token; null for d_in / 2; training only.
        threshold_beta: share of the running average that a step leaves, β; in step n of the
            average min(β, (1 + n) / (10 + n)); training only.
        threshold_start_step: the average begins there; training only.

    Raises:
        InvalidOption: k or k_aux exceeds d_sae, or an option is out of range.
    """

    architecture = "jumprelu"
    config_keys: ClassVar[tuple[str, ...]] = ("d_in", "d_sae", "k")
    trained_as = "batch_topk"
    reference_names = ("BatchTopKTrainer", "BatchTopKSAE")
    reference_options: ClassVar[dict[str, str]] = {"k": "k"}
    activation_fn = "jumprelu"
    can_screen = True

    threshold: Tensor  # pre-activations; negative until a step has set it

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        auxk_weight: float = 1 / 32,
        k_aux: int | None = None,
        threshold_beta: float = 0.99,
        threshold_start_step: int = 0,
    ) -> None:
        self.k = check_k(k, d_sae)
        super().__init__(d_in, d_sae)
        self.tracked_latents = max(TRACKED_LATENTS, 2 * self.k)
        self.auxk_weight = check_number("auxk_weight", auxk_weight)
        self.k_aux = choose_k_aux(k_aux, self.d_in, self.d_sae)
        self.threshold_beta = check_number("threshold_beta", threshold_beta, maximum=1.0)
        self.threshold_start_step = check_int("threshold_start_step", threshold_start_step, 0)
        self.register_buffer("threshold", torch.tensor(-1.0))

    def most_rows(self, batch_size: int) -> int | None:
        return min(self.d_sae, self.k * batch_size)

    def encode_dense(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        pre_acts = self.pre_activations(x)
        return pre_acts * (pre_acts > self.threshold.clamp(min=0))

    def training_step(self, x: Float[Tensor, "tokens d_in"], context: StepContext) -> StepOutput:
        encoded = self.encoded(x, context.gradients)
        chosen, z, least = self._largest(encoded, context)
        self._move_threshold(least, context.step)
        acts = z * (z > just_below(least))
        x_hat, partial = self.reconstruct(chosen, acts)
        terms = self.auxk_terms(x, x_hat, self.auxk_weight, self.k_aux, context)
        return self.output(chosen, acts, x_hat, terms, partial, encoded.metrics)

    def _largest(
        self, encoded: Encoded, context: StepContext
    ) -> tuple[Chosen, Tensor, Float[Tensor, ""]]:
        """Return the B·k largest of the batch, their pre-activations, and the least of them."""
        x, n = encoded.centered, self.k * len(encoded.centered)
        if self.screens(x, self.k, context):
            found = encoded.screened(screening.largest_of_all, n)
            if found:
                chosen, z = found
                return chosen, z, least_of(z.detach()[chosen.filled], n)
        least = kth_largest_of_all(encoded.pre_acts, n)
        chosen = self.choose(encoded.pre_acts, just_below(least).expand(self.d_sae), context)
        return chosen, encoded.take(chosen), least

    def reconstruct(self, chosen: Any, acts: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the reconstruction, and those by parts of the dictionary (none here)."""
        return chosen.decode(acts, self.W_dec).add_(self.b_dec), ()

    @torch.no_grad()
    def _move_threshold(self, least: Float[Tensor, ""], step: int) -> None:
        """Towards the least activation of the batch, unless nothing in it was active.

        While the average is young it keeps less of itself, so that what the first steps left,
        when activations are of another size, is soon forgotten.
        """
        age = step - self.threshold_start_step
        if age < 0:
            return
        keep = min(self.threshold_beta, (1 + age) / (10 + age))
        average = keep * self.threshold + (1 - keep) * least
        moved = torch.where(self.threshold < 0, least, average)
        self.threshold.copy_(torch.where(least > 0, moved, self.threshold))

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        super().fold_input_scale(scale)
        self.threshold.mul_(scale)

    def config(self) -> dict[str, Any]:
        return {"d_in": self.d_in, "d_sae": self.d_sae, "trained_as": self.training_config()}

    def training_config(self) -> dict[str, Any]:
        """Return the options that a JumpReLU SAE has no place for; SAELens passes over them."""
        return {"architecture": self.trained_as, "k": self.k}

    def tensors(self) -> dict[str, Tensor]:
        return {**self.weights(), "threshold": self.threshold.clamp(min=0).expand(self.d_sae)}

    @classmethod
    @torch.no_grad()
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        weights = {name: tensor for name, tensor in tensors.items() if name != "threshold"}
        sae = super().from_tensors({**config, **config["trained_as"]}, weights)
        threshold = tensors["threshold"]
        if threshold.shape != (sae.d_sae,):
            raise ValueError(f"threshold: has shape {tuple(threshold.shape)}, not ({sae.d_sae},)")
        if not bool((threshold == threshold[0]).all()):
            raise ValueError("threshold: differs between latents, so this is no BatchTopK SAE")
        sae.threshold.copy_(threshold[0])
        return sae


def just_below(least: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the next smaller number, so that what equals `least` exceeds it; 0 stays."""
    return torch.nextafter(least, torch.zeros_like(least))


def least_of(values: Float[Tensor, " found"], n: int) -> Float[Tensor, ""]:
    """Return the least of some positive numbers; 0 where there are fewer than n."""
    return values.min() if len(values) >= n else values.new_zeros(())


def kth_largest_of_all(pre_acts: Float[Tensor, "B F"], n: int) -> Float[Tensor, ""]:
    """Return the (n · processes)-th largest positive entry of all processes; 0 where fewer.

    Each process finds its own n-th largest. The least of these has n entries at or above it in
    every process, so those are all that the answer can be among, and few more than needed. On a
    GPU, where their number would have to be waited for, each brings as many as there can be.
    """
    n_of_all = n * distributed.world_size()
    if n_of_all == n:
        return selection.kth_largest(pre_acts, n)
    if pre_acts.device.type == "cpu":
        bound = distributed.all_reduce_min(selection.kth_largest(pre_acts, n))
        candidates = pre_acts[(pre_acts >= bound) & (pre_acts > 0)].float()
    else:
        candidates = pre_acts.float().flatten().topk(min(n_of_all, pre_acts.numel())).values
    values = torch.cat(distributed.all_gather(candidates))
    values = torch.nn.functional.pad(values, (0, max(0, n_of_all - len(values))))
    return values.topk(n_of_all).values[-1].clamp(min=0)
