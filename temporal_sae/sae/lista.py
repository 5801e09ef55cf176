"""LISTA: an encoder that looks again at what its first answer leaves, on Matryoshka's levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temporal_sae.errors import check_bool, check_int, check_number
from temporal_sae.kernels import sparse_products
from temporal_sae.latents import as_rows, with_leading
from temporal_sae.machine import Planned
from temporal_sae.registry import component
from temporal_sae.sae.base import StepContext, StepOutput
from temporal_sae.sae.batch_topk import BatchTopKSAE, just_below, kth_largest_of_all
from temporal_sae.sae.matryoshka import MatryoshkaSAE
from temporal_sae.sae.step_ops import Chosen

FRACTIONS = (1 / 32, 3 / 32, 3 / 8, 1 / 2)


@component("sae")
class ListaSAE(MatryoshkaSAE):
    """Matryoshka whose encoder corrects its input by the residual, n times, before it answers.

    With c = x - b_dec and u_0 = c, f_t = S_t(u_t W_enc + b_enc) and
    u_{t+1} = u_t + η_t (c - f_t W_dec); the latents are f_n. Each t is one step of LISTA (Gregor &
    LeCun 2010, "Learning fast approximations of sparse coding") whose only matrices are those of
    the SAE. S keeps the B·k largest of a batch in training, and afterwards what
    exceeds a running average of the least of them, one threshold for each t.

    A level m > 1 of the dictionary reconstructs with what the levels below it give held constant,
    so that a latent learns from its own level and from the whole. This is the architecture that the
    post "Letting Claude do Autonomous Research to Improve SAEs" (2026,
    github.com/chanind/claude-auto-research-synthsaebench) reports F1 .97 for on SynthSAEBench-16k;
    its frequency-sorted levels, falling k and tilted loss are not part of it here.

    SAELens does not know this function, and does not load what `save` writes.

    Args:
        d_in: width of the activations.
        d_sae: number of latents, F.
        k: active latents per token on average.
        n_corrections: n; with 0 the encoder is Matryoshka's.
        step_size: η, or what it begins with.
        learn_step_size: each η_t is trained; training only.
        group_fractions: shares of the latents that each level adds to the one before; they sum to
            1; training only.
        auxk_weight: weight of the AuxK term that revives dead latents; training only.
        k_aux: dead latents used by AuxK a token; null for d_in / 2; training only.
        threshold_beta: share of the running averages that a step leaves; training only.
        threshold_start_step: the averages begin there; training only.

    Raises:
        InvalidOption: an option is out of range, or see MatryoshkaSAE.
    """

    architecture = "lista"
    trained_as = "lista"
    can_screen = False  # its corrections multiply by all of the encoder again
    reference_names = ("ListaTrainer", "ListaSAE")
    config_keys: ClassVar[tuple[str, ...]] = (
        "d_in",
        "d_sae",
        "k",
        "n_corrections",
        "group_fractions",
    )

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        n_corrections: int = 1,
        step_size: float = 0.3,
        learn_step_size: bool = False,
        group_fractions: Sequence[float] = FRACTIONS,
        auxk_weight: float = 1 / 32,
        k_aux: int | None = None,
        threshold_beta: float = 0.99,
        threshold_start_step: int = 0,
    ) -> None:
        upkeep = (auxk_weight, k_aux, threshold_beta, threshold_start_step)
        super().__init__(d_in, d_sae, k, group_fractions, *upkeep)
        self.n_corrections = check_int("n_corrections", n_corrections, 0)
        steps = torch.full((self.n_corrections,), check_number("step_size", step_size))
        if check_bool("learn_step_size", learn_step_size):
            self.step_size = nn.Parameter(steps)
        else:
            self.register_buffer("step_size", steps)
        self.register_buffer("threshold", torch.full((self.n_corrections + 1,), -1.0))

    def encode_dense(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        centered = corrected = as_rows(x) - self.b_dec
        first, *others = self.threshold.clamp(min=0)
        acts = self._above(corrected, first)
        for step_size, threshold in zip(self.step_size, others, strict=True):
            corrected = corrected + step_size * (centered - acts @ self.W_dec)
            acts = self._above(corrected, threshold)
        return with_leading(acts, x.shape[:-1])

    def _above(self, corrected: Float[Tensor, "tokens d_in"], threshold: Tensor) -> Tensor:
        pre_acts = torch.addmm(self.b_enc, corrected, self.W_enc)
        return pre_acts * (pre_acts > threshold)

    def training_step(self, x: Float[Tensor, "tokens d_in"], context: StepContext) -> StepOutput:
        centered = corrected = x - self.b_dec
        chosen, acts, least = self._active(corrected, context)
        leasts = [least]
        for step_size in self.step_size:
            residual = centered - chosen.decode(acts, self.W_dec)
            corrected = corrected + step_size * residual
            chosen, acts, least = self._active(corrected, context)
            leasts.append(least)
        self._move_threshold(torch.stack(leasts), context.step)
        x_hat, partial = self.reconstruct(chosen, acts)
        terms = self.auxk_terms(x, x_hat, self.auxk_weight, self.k_aux, context)
        return self.output(chosen, acts, x_hat, terms, partial)

    def _active(
        self, corrected: Float[Tensor, "tokens d_in"], context: StepContext
    ) -> tuple[Chosen, Tensor, Float[Tensor, ""]]:
        """Return the B·k largest latents of a batch, and the least of them."""
        with torch.no_grad():
            pre_acts = torch.addmm(self.b_enc, corrected, self.W_enc)
            least = kth_largest_of_all(pre_acts, self.k * len(corrected))
            thresholds = just_below(least).expand(self.d_sae)
            chosen = self.choose(pre_acts, thresholds, context)
        z = _PreActivations.apply(corrected, self.W_enc, self.b_enc, pre_acts, chosen)
        return chosen, z * (z > thresholds[:1]), least

    def reconstruct(self, chosen: Chosen, acts: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x_hat, partial = super().reconstruct(chosen, acts)
        own = (upto - below + below.detach() for below, upto in pairwise(partial))
        return x_hat, (*partial[:1], *own)

    def planned_bytes(self, batch_size: int) -> dict[str, Planned]:
        planned = super().planned_bytes(batch_size)
        batch = planned["batch"]
        n_products = 1 + self.n_corrections
        return {**planned, "batch": replace(batch, n_bytes=n_products * batch.n_bytes)}

    def config(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.config_keys}

    def weights(self) -> dict[str, Tensor]:
        steps = {"step_size": self.step_size, "step_thresholds": self.threshold}
        return {**super().weights(), **steps}

    def tensors(self) -> dict[str, Tensor]:
        return {**self.weights(), "step_thresholds": self.threshold.clamp(min=0)}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        # Not by BatchTopK's way, which is that of an SAE that is stored as another's function.
        return super(BatchTopKSAE, cls).from_tensors(config, tensors)


class _PreActivations(torch.autograd.Function):
    """Taken from the product; the input has a gradient too, by which earlier latents learn."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, pre_acts: Tensor, chosen: Chosen
    ) -> Tensor:
        ctx.save_for_backward(x, W_enc)
        ctx.chosen = chosen
        if chosen.indices is None:
            return pre_acts.float().detach()
        return pre_acts.gather(1, chosen.indices.clamp(min=0)).float() * chosen.filled

    @staticmethod
    def backward(ctx: Any, by_taken: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (x, W_enc), chosen = ctx.saved_tensors, ctx.chosen
        if chosen.indices is None:
            return by_taken @ W_enc.T, (by_taken.T @ x).T, by_taken.sum(0), None, None
        by_taken = by_taken.contiguous()
        by_rows = sparse_products.sum_by_latent(chosen.lists, by_taken, x)
        ones = x.new_ones(len(x), 1)
        by_bias = sparse_products.sum_by_latent(chosen.lists, by_taken, ones)[:, 0]
        by_x = sparse_products.decode_rows(by_taken, chosen.indices, W_enc.T)
        return by_x, by_rows.T, by_bias, None, None
