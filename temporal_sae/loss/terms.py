"""Reconstruction, sparsity and auxiliary terms: pure functions of tensors.

Every function returns a scalar and takes `x` and `x_hat` as float [tokens, d_in].
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import embedding

from temporal_sae import distributed
from temporal_sae.kernels.row_gradient import RowGradients, take_rows

RECONSTRUCTIONS = ("fvu", "sse", "norm")
ROUNDING = 1e-12  # of E‖x‖²: what the variance of equal rows comes to in float32, and more


def reconstruction_loss(
    kind: str, x: Float[Tensor, "tokens d_in"], x_hat: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, ""]:
    """Return the distance between reconstruction and input.

    `fvu`: E‖x - x̂‖² / E‖x - mean‖², the fraction of variance unexplained (sparsify, OpenAI).
    `sse`: E‖x - x̂‖² (dictionary_learning, SAELens). `norm`: E‖x - x̂‖, which the ReLU reference run
    must have used: its final loss of 100 is √(2304 · 4.44), the root of its summed squared error.
    """
    if kind == "norm":
        return (x - x_hat).norm(dim=-1).mean()
    error = squared_error(x, x_hat)
    return error / variance(x) if kind == "fvu" else error


def squared_error(
    x: Float[Tensor, "tokens d_in"], x_hat: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, ""]:
    """E‖x - x̂‖², whose gradient goes to x̂ only."""
    error: Tensor = _SquaredError.apply(x.detach(), x_hat)
    return error


class _SquaredError(torch.autograd.Function):
    """Three passes over [tokens, d_in] with one buffer; autograd's own formula takes eight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x_hat: Tensor) -> Tensor:
        ctx.save_for_backward(x, x_hat)  # both are alive anyway
        ctx.residual = x - x_hat
        flat = ctx.residual.flatten()
        return flat.dot(flat) / max(1, len(x))

    @staticmethod
    def backward(ctx: Any, by_error: Tensor) -> tuple[None, Tensor]:
        gradient, ctx.residual = ctx.residual, None
        if gradient is None:  # a second time
            x, x_hat = ctx.saved_tensors
            gradient = x - x_hat
        return None, gradient.mul_(by_error * (-2 / max(1, len(gradient))))


def variance(x: Float[Tensor, "tokens d"]) -> Float[Tensor, ""]:
    """E‖x - mean‖² of a batch, kept above 1e-12 so that it can divide.

    Several processes hold as many tokens each, and get the variance of all of them.
    """
    x = x.detach()
    if distributed.world_size() > 1:
        return _variance_of_all(x).clamp(min=1e-12)
    if x.device.type != "cpu" or not len(x):
        return x.var(0, correction=0).sum().clamp(min=1e-12)
    centered = (x - x.mean(0)).flatten()  # torch's own variance over rows takes ten times as long
    return (centered.dot(centered) / len(x)).clamp(min=1e-12)


def is_constant(variance: float, square: float) -> bool:
    """Return whether a variance is only rounding beside E‖x‖²: no share can be explained."""
    return not variance > ROUNDING * square


def _variance_of_all(x: Float[Tensor, "tokens d"]) -> Float[Tensor, ""]:
    """Return the variance within parts, plus that of their means."""
    own = torch.cat([x.mean(0), x.var(0, correction=0).sum()[None]])
    parts = torch.stack(distributed.all_gather(own, same_shape=True))
    return parts[:, -1].mean() + parts[:, :-1].var(0, correction=0).sum()


def auxk_loss(
    x: Float[Tensor, "tokens d_in"],
    x_hat: Float[Tensor, "tokens d_in"],
    dead: Bool[Tensor, " d_sae"],
    parameters: tuple[Tensor, Tensor, Tensor, Tensor],
    k_aux: int,
    gradients: RowGradients | None = None,
) -> Float[Tensor, ""]:
    """AuxK (Gao et al. 2024, arXiv 2406.04093, section A.2): dead latents explain the residual.

    The `k_aux` largest dead latents reconstruct x - x̂, normalised by the residual's variance and
    scaled down while fewer than `k_aux` are dead. The gradient reaches the encoder and the decoder
    rows of the dead latents, and nothing else: the residual is a constant here. On the CPU only
    the dead latents are computed; on a GPU all, since their number is not known there.

    Args:
        dead: bool [d_sae].
        parameters: W_enc, b_enc, b_dec, W_dec.
        k_aux: dead latents per token.
        gradients: where those of the matrices go, if not to the parameters; on the CPU.
    """
    W_enc, b_enc, b_dec, W_dec = parameters
    residual = (x - x_hat).detach()
    encoder, bias, decoder, mask = W_enc.T, b_enc, W_dec, dead
    if dead.device.type == "cpu":
        ids = dead.nonzero().flatten()
        into = gradients or (None, None)
        encoder, decoder = map(take_rows, (encoder, decoder), (ids, ids), into)
        bias, mask = embedding(ids, bias[:, None])[:, 0], dead[ids]
    pre_acts = torch.addmm(bias, (x - b_dec).detach(), encoder.T).float()
    least = pre_acts.masked_fill(~mask, -torch.inf)
    values, indices = least.topk(min(k_aux, least.shape[1]), dim=-1, sorted=False)
    acts = torch.zeros_like(pre_acts).scatter(1, indices, values.relu())
    error = squared_error(residual, (acts @ decoder).float())
    return error / variance(residual) * (dead.sum() / k_aux).clamp(max=1)
