"""Operations of a training step: dense in the encoder's product, then on active latents only.

The pre-activations of all latents are computed once, outside autograd. Nodes of autograd then take
those of some latents (or all), turn latents into a reconstruction, and give the gradients of both
weight matrices from the active slots alone: neither tokens x k x d nor a dense gradient of
tokens x F exists on the way, nor, where they go to `RowGradients`, any of whole matrices of
weights. Where nearly all latents are active, or a device has no compiled kernels, the same nodes
multiply matrices instead, with the same results to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from temporal_sae.kernels import has_compiled_kernels, screening, sparse_products
from temporal_sae.kernels.row_gradient import RowGradients
from temporal_sae.kernels.sparse_products import ByLatent
from temporal_sae.latents import Latents

# Latents for each active one from which on the sparse way is the faster one (benchmarks/step.py).
BREAK_EVEN = {"cpu": 4, "cuda": 200}
# From these on, and so many latents for each active one, screening is (`benchmarks/step.py
# --subjects ours --encoder screened`).
SCREENED_WIDTH, SCREENED_LATENTS, SCREENED_FROM = 256, 8192, 48
# From these on, if such a share of them can be active in a batch at most, gradients by rows are
# (`benchmarks/step.py --subjects ours --gradients rows`).
ROWS_FROM, ROWS_SHARE = 65536, 1 / 4


def prefers_sparse(device: torch.device, d_sae: int, k: int) -> bool:
    """Return whether a step with at most k active latents per token is faster by gathering rows."""
    return has_compiled_kernels(device) and d_sae > BREAK_EVEN.get(device.type, d_sae) * k


def prefers_screening(device: torch.device, d_in: int, d_sae: int, k: int) -> bool:
    """Return whether k latents of each token are found faster by screening than by the product."""
    large = d_in >= SCREENED_WIDTH and d_sae >= max(SCREENED_LATENTS, SCREENED_FROM * k)
    return large and screening.is_fast(device)


def prefers_rows(d_sae: int, most_rows: int) -> bool:
    """Return whether gradients by rows are faster where at most so many latents have one."""
    return d_sae >= ROWS_FROM and most_rows <= ROWS_SHARE * d_sae


@dataclass(frozen=True)
class Chosen:
    """The latents that a step is about: some of each token, or all of them.

    Attributes:
        d_sae: number of latents, F.
        indices: int64 [tokens, k], -1 in empty slots; None for all latents in their order, and
            then the last dimension of everything here is F.
        sparse: gather rows; otherwise multiply matrices.
        gradients: where those of the matrices go with `sparse`; None for the parameters' own.
    """

    d_sae: int
    indices: Int[Tensor, "tokens k"] | None
    sparse: bool
    gradients: RowGradients | None = None

    @cached_property
    def filled(self) -> Bool[Tensor, "tokens k"]:
        """Mark the slots that hold a latent."""
        assert self.indices is not None
        return self.indices >= 0

    @cached_property
    def lists(self) -> ByLatent:
        """The slots of each latent; both weight gradients need them."""
        assert self.indices is not None
        return sparse_products.list_by_latent(self.indices, self.d_sae)

    @cached_property
    def active(self) -> tuple[Int[Tensor, " n"], ByLatent]:
        """The latents that have a slot, and the slots of each of them."""
        starts, slots = self.lists
        latents = starts.diff().nonzero()[:, 0]
        return latents, ByLatent(torch.cat([starts[latents], starts[-1:]]), slots)

    def take(self, per_latent: Float[Tensor, " F"]) -> Tensor:
        """Return a number of each latent where its slots are (any number in empty ones)."""
        if self.indices is None:
            return per_latent
        taken: Tensor = _Take.apply(per_latent, self)
        return taken

    def decode(self, acts: Tensor, W_dec: Float[Tensor, "F d"]) -> Float[Tensor, "tokens d"]:
        """Σ acts W_dec, without the bias."""
        if self.indices is not None and self.sparse:
            x_hat: Tensor = SparseProduct.apply(acts, W_dec, self)
            return x_hat
        return (self.dense(acts) @ W_dec).float()

    def l1(self, acts: Tensor, W_dec: Float[Tensor, "F d"]) -> Float[Tensor, ""]:
        """E Σ_i acts_i ‖d_i‖; with unit decoder rows the plain L1 norm of the latents."""
        return (acts * self.take(W_dec.norm(dim=-1))).sum(-1).mean()

    def dense(self, acts: Tensor) -> Float[Tensor, "tokens F"]:
        """Return the same latents at their places in rows of zeros."""
        if self.indices is None:
            return acts
        return Latents(acts * self.filled, self.indices).to_dense(self.d_sae)

    def fired(self, acts: Tensor) -> Bool[Tensor, " F"]:
        """Mark the latents that are active in some token."""
        if self.indices is None:
            return (acts > 0).any(0)
        places = torch.where((acts > 0) & self.filled, self.indices, self.d_sae)
        fired = torch.zeros(self.d_sae + 1, dtype=torch.bool, device=acts.device)
        return fired.index_fill_(0, places.flatten(), True)[: self.d_sae]

    def latents(self, acts: Tensor, at_most: int) -> Latents:
        """For the tracker: the active latents of each token, the largest if there are more."""
        if self.indices is None:
            return Latents.from_dense(acts, at_most)
        active = (acts > 0) & self.filled
        return Latents(acts * active, torch.where(active, self.indices, -1)).largest(at_most)


@dataclass
class Encoded:
    """A batch before or after the encoder's product.

    Attributes:
        centered: x - b_dec, [tokens, d_in].
        W_enc, b_enc, b_dec: the parameters of the product.
        gradients: as of `Chosen`.
        metrics: of screening, where that was tried: shares of all pre-activations that were
            computed exactly, and of tokens for which all were.
    """

    centered: Tensor
    W_enc: Tensor
    b_enc: Tensor
    b_dec: Tensor
    gradients: RowGradients | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @cached_property
    def pre_acts(self) -> Tensor:
        """centered W_enc + b_enc, [tokens, F], without a gradient.

        It is gone once some have been taken, for it is the largest tensor of a step.
        """
        with torch.no_grad():
            return torch.addmm(self.b_enc, self.centered, self.W_enc)

    def take(self, chosen: Chosen) -> Tensor:
        """Pre-activations of the chosen latents in float32, with their gradient; 0 where empty.

        To be called once.
        """
        pre_acts, parameters = self.pre_acts, (self.W_enc, self.b_enc, self.b_dec)
        del self.pre_acts
        if chosen.indices is not None and chosen.sparse:
            values = pre_acts.gather(1, chosen.indices.clamp(min=0)).float() * chosen.filled
            return self._with_gradient(values, chosen)
        dense: Tensor = _DensePreActivations.apply(*parameters, self.centered, pre_acts)
        if chosen.indices is None:
            return dense
        return dense.gather(1, chosen.indices.clamp(min=0)) * chosen.filled

    def screened(
        self, screen: Callable[..., screening.Found | None], *wanted: Any
    ) -> tuple[Chosen, Tensor] | None:
        """Return the latents that a screen finds, and their pre-activations as `take` does.

        None where so many of them seem to be wanted that the product is quicker.
        """
        found = screen(self.centered, self.W_enc.T, self.b_enc, *wanted)
        n_tokens, d_sae = len(self.centered), len(self.b_enc)
        n_scored, n_unsettled = found[2:] if found else (n_tokens * d_sae, n_tokens)
        self.metrics = {
            "encoder_scored_share": n_scored / max(1, n_tokens * d_sae),
            "encoder_unsettled_share": n_unsettled / max(1, n_tokens),
        }
        if found is None:
            return None
        chosen = Chosen(d_sae, found.indices, True, self.gradients)
        return chosen, self._with_gradient(found.values, chosen)

    def _with_gradient(self, values: Tensor, chosen: Chosen) -> Tensor:
        parameters = (self.W_enc, self.b_enc, self.b_dec)
        taken: Tensor = _SparsePreActivations.apply(*parameters, self.centered, values, chosen)
        return taken


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, per_latent: Tensor, chosen: Chosen) -> Tensor:
        ctx.chosen = chosen
        assert chosen.indices is not None
        return per_latent[chosen.indices.clamp(min=0)]

    @staticmethod
    def backward(ctx: Any, by_taken: Tensor) -> tuple[Tensor, None]:
        return _sum_by_latent(ctx.chosen, by_taken), None


class _SparsePreActivations(torch.autograd.Function):
    """Some of the product; the gradient of W_enc is that of its rows that are chosen."""

    @staticmethod
    def forward(
        ctx: Any,
        W_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor,
        centered: Tensor,
        values: Tensor,
        chosen: Chosen,
    ) -> Tensor:
        ctx.save_for_backward(W_enc, centered)
        ctx.chosen = chosen
        return values.detach()

    @staticmethod
    def backward(
        ctx: Any, by_taken: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor, None, None, None]:
        (W_enc, centered), chosen = ctx.saved_tensors, ctx.chosen
        by_bias = _sum_by_latent(chosen, by_taken)
        if chosen.gradients is not None:
            latents, lists = chosen.active
            by_rows = sparse_products.sum_by_latent(lists, by_taken, centered)
            chosen.gradients.W_enc.add(latents, by_rows)
            by_b_dec = -(by_bias[latents] @ embedding(latents, W_enc.T))
            return None, by_bias, by_b_dec, None, None, None
        by_rows = sparse_products.sum_by_latent(chosen.lists, by_taken, centered)
        return by_rows.T, by_bias, -(W_enc @ by_bias), None, None, None


class _DensePreActivations(torch.autograd.Function):
    """All of the product, in float32; its gradients are products in the precision of the first."""

    @staticmethod
    def forward(
        ctx: Any, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, centered: Tensor, pre_acts: Tensor
    ) -> Tensor:
        ctx.save_for_backward(W_enc, centered)
        ctx.kind = pre_acts.dtype
        return pre_acts.float().detach()

    @staticmethod
    def backward(ctx: Any, by_pre_acts: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (W_enc, centered), kind = ctx.saved_tensors, ctx.kind
        by_bias = by_pre_acts.sum(0)
        # The transpose of [F, d], as the parameter lies in memory.
        by_rows = by_pre_acts.T.to(kind) @ centered.to(kind)
        return by_rows.float().T, by_bias, -(W_enc @ by_bias), None, None


class SparseProduct(torch.autograd.Function):
    """Σ_s acts[b, s] W[indices[b, s]]."""

    @staticmethod
    def forward(ctx: Any, acts: Tensor, W: Tensor, chosen: Chosen) -> Tensor:
        ctx.save_for_backward(acts, W)
        ctx.chosen = chosen
        assert chosen.indices is not None
        return sparse_products.decode_rows(acts, chosen.indices, W)

    @staticmethod
    def backward(ctx: Any, by_sum: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (acts, W), chosen = ctx.saved_tensors, ctx.chosen
        by_sum = by_sum.contiguous()
        needs_acts, needs_rows, _ = ctx.needs_input_grad
        if chosen.gradients is not None:
            latents, lists = chosen.active
            chosen.gradients.W_dec.add(latents, sparse_products.sum_by_latent(lists, acts, by_sum))
            return sparse_products.dot_rows(by_sum, chosen.indices, W), None, None
        if needs_acts and needs_rows:
            both = sparse_products.decode_gradients(chosen.lists, acts, chosen.indices, by_sum, W)
            return *both, None
        by_acts = sparse_products.dot_rows(by_sum, chosen.indices, W) if needs_acts else None
        by_rows = sparse_products.sum_by_latent(chosen.lists, acts, by_sum) if needs_rows else None
        return by_acts, by_rows, None


def _sum_by_latent(chosen: Chosen, numbers: Tensor) -> Float[Tensor, " F"]:
    """Return the sum over each latent's slots."""
    ones = numbers.new_ones(numbers.shape[0], 1)
    total = sparse_products.sum_by_latent(chosen.lists, numbers.contiguous(), ones)
    return total[:, 0]
