"""Reconstruction, sparsity and auxiliary terms: pure functions of tensors.

Every function returns a scalar and takes `x` and `x_hat` as float [tokens, d_in].
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

RECONSTRUCTIONS = ("fvu", "sse", "norm")


def reconstruction_loss(
    kind: str, x: Float[Tensor, "tokens d_in"], x_hat: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, ""]:
    """How far the reconstruction is from the input.

    `fvu`: E‖x - x̂‖² / E‖x - mean‖², the fraction of variance unexplained (sparsify, OpenAI).
    `sse`: E‖x - x̂‖² (dictionary_learning, SAELens). `norm`: E‖x - x̂‖, which the ReLU reference run
    must have used: its final loss of 100 is √(2304 · 4.44), the root of its summed squared error.
    """
    if kind == "norm":
        return (x - x_hat).norm(dim=-1).mean()
    error = (x - x_hat).square().sum(-1).mean()
    return error / variance(x) if kind == "fvu" else error


def variance(x: Float[Tensor, "tokens d"]) -> Float[Tensor, ""]:
    """E‖x - mean‖² of a batch, kept above 1e-12 so that it can divide."""
    return (x - x.mean(0)).square().sum(-1).mean().clamp(min=1e-12).detach()


def l1_loss(
    acts: Float[Tensor, "tokens d_sae"], W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, ""]:
    """E Σ_i f_i ‖d_i‖; with unit decoder rows the plain L1 norm of the latents."""
    return (acts @ W_dec.norm(dim=-1)).mean()


def auxk_loss(
    residual: Float[Tensor, "tokens d_in"],
    pre_acts: Float[Tensor, "tokens d_sae"],
    dead: Tensor,
    W_dec: Float[Tensor, "d_sae d_in"],
    k_aux: int,
) -> Float[Tensor, ""]:
    """AuxK (Gao et al. 2024, arXiv 2406.04093, section A.2): dead latents explain the residual.

    The `k_aux` largest dead latents reconstruct x - x̂, normalised by the residual's variance and
    scaled down while fewer than `k_aux` are dead. The gradient reaches the encoder and the decoder
    rows of the dead latents, and nothing else: the residual is a constant here.

    Args:
        residual: x - x̂.
        pre_acts: pre-activations of all latents.
        dead: bool [d_sae].
    """
    residual = residual.detach()
    values, indices = pre_acts.masked_fill(~dead, -torch.inf).topk(k_aux, dim=-1, sorted=False)
    acts = torch.zeros_like(pre_acts).scatter(1, indices, values.relu())
    error = (residual - acts @ W_dec).square().sum(-1).mean()
    return error / variance(residual) * (dead.sum() / k_aux).clamp(max=1)
