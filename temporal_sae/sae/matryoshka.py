"""Matryoshka: nested dictionaries that all reconstruct (Bussmann et al. 2025, arXiv 2503.17547)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.errors import InvalidOption, check_number
from temporal_sae.kernels import sparse_products
from temporal_sae.registry import component
from temporal_sae.sae.batch_topk import BatchTopKSAE
from temporal_sae.sae.step_ops import Chosen

FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)


@component("sae")
class MatryoshkaSAE(BatchTopKSAE):
    """BatchTopK whose first m latents reconstruct on their own, for several m.

    The reconstruction loss is the mean over the nested dictionaries, the whole one among them, so
    that general features settle in the first latents and special ones do not absorb them.

    Args:
        d_in: width of the activations.
        d_sae: number of latents, F.
        k: active latents per token on average.
        group_fractions: shares of the latents that each dictionary adds to the one before; they
            sum to 1; training only.
        auxk_weight: weight of the AuxK term that revives dead latents; training only.
        k_aux: dead latents used by AuxK a token; null for d_in / 2; training only.
        threshold_beta: share of the running average that a step leaves; training only.
        threshold_start_step: the average begins there; training only.

    Raises:
        InvalidOption: the fractions do not sum to 1, a group is empty, or see BatchTopKSAE.
    """

    trained_as = "matryoshka"
    reference_names = ("MatryoshkaBatchTopKTrainer", "MatryoshkaBatchTopKSAE")
    config_keys = (*BatchTopKSAE.config_keys, "group_fractions")

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        group_fractions: Sequence[float] = FRACTIONS,
        auxk_weight: float = 1 / 32,
        k_aux: int | None = None,
        threshold_beta: float = 0.99,
        threshold_start_step: int = 0,
    ) -> None:
        super().__init__(
            d_in,
            d_sae,
            k,
            auxk_weight,
            k_aux,
            threshold_beta,
            threshold_start_step,
        )
        if not isinstance(group_fractions, Sequence):
            raise InvalidOption("group_fractions", group_fractions, "a list of numbers")
        self.group_fractions = [
            check_number("group_fractions", f, above=True) for f in group_fractions
        ]
        self.edges = group_edges(self.group_fractions, self.d_sae)

    def most_rows(self, batch_size: int) -> int | None:
        return None  # its nested sums have a gradient of their own

    def reconstruct(self, chosen: Chosen, acts: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        sums = (
            _NestedProduct.apply(acts, self.W_dec, chosen, self.edges)
            if chosen.indices is not None and chosen.sparse
            else self._dense_sums(chosen.dense(acts))
        )
        *partial, x_hat = (total + self.b_dec for total in sums)
        return x_hat, tuple(partial)

    def _dense_sums(self, acts: Float[Tensor, "tokens F"]) -> tuple[Tensor, ...]:
        parts = [acts[:, lo:hi] @ self.W_dec[lo:hi] for lo, hi in self._groups()]
        return tuple(torch.stack(parts).float().cumsum(0).unbind())

    def _groups(self) -> list[tuple[int, int]]:
        return groups_of(self.edges)

    def training_config(self) -> dict[str, Any]:
        return {**super().training_config(), "group_fractions": self.group_fractions}


def group_edges(fractions: Sequence[float], d_sae: int) -> tuple[int, ...]:
    """Return the end of each nested dictionary, the last one at d_sae.

    Raises:
        InvalidOption: the fractions do not sum to 1, or a group would be empty.
    """
    if not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise InvalidOption("group_fractions", list(fractions), "numbers that sum to 1")
    edges = [*(round(d_sae * share) for share in accumulate(fractions[:-1])), d_sae]
    if any(lo >= hi for lo, hi in groups_of(edges)):
        raise InvalidOption("group_fractions", list(fractions), f"groups of at least 1 of {d_sae}")
    return tuple(edges)


def groups_of(edges: Sequence[int]) -> list[tuple[int, int]]:
    """First and last latent (exclusive) of each group."""
    return list(zip((0, *edges[:-1]), edges, strict=True))


class _NestedProduct(torch.autograd.Function):
    """Σ over the active latents below each edge; every latent's row is gathered once."""

    @staticmethod
    def forward(
        ctx: Any, acts: Tensor, W_dec: Tensor, chosen: Chosen, edges: tuple[int, ...]
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(acts, W_dec)
        ctx.chosen, ctx.edges = chosen, edges
        total, sums = W_dec.new_zeros(len(acts), W_dec.shape[1]), []
        for lo, hi in groups_of(edges):
            total = total + sparse_products.decode_rows(acts, within(chosen, lo, hi), W_dec[lo:hi])
            sums.append(total)
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, *by_sums: Tensor) -> tuple[Tensor, Tensor, None, None]:
        acts, W_dec = ctx.saved_tensors
        by_acts, by_rows = torch.zeros_like(acts), torch.empty_like(W_dec)
        by_group = torch.zeros_like(by_sums[0])
        for (lo, hi), by_sum in zip(groups_of(ctx.edges)[::-1], by_sums[::-1], strict=True):
            by_group = by_group + by_sum  # a group is part of every sum from its own on
            indices = within(ctx.chosen, lo, hi)
            lists = sparse_products.list_by_latent(indices, hi - lo)
            by_values, by_rows[lo:hi] = sparse_products.decode_gradients(
                lists, acts, indices, by_group, W_dec[lo:hi]
            )
            by_acts += by_values
        return by_acts, by_rows, None, None


def within(chosen: Chosen, lo: int, hi: int) -> Tensor:
    """Return the chosen latents of one group, counted from its first; -1 in all other slots."""
    indices = chosen.indices
    assert indices is not None
    return torch.where((indices >= lo) & (indices < hi), indices - lo, -1)
