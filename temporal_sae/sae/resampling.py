"""New directions for dead latents (Bricken et al. 2023, "Neuron resampling")."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from temporal_sae.sae.base import SparseAutoencoder

ENCODER_NORM = 0.2  # of the mean norm of the living: small enough not to disturb them


@torch.no_grad()
def resample(
    sae: SparseAutoencoder,
    x: Float[Tensor, "tokens d_in"],
    x_hat: Float[Tensor, "tokens d_in"],
    dead: Bool[Tensor, " d_sae"],
) -> None:
    """Point each dead latent at a token, drawn in proportion to its squared error to the second.

    Decoder rows become the tokens' directions from b_dec, encoder columns the same at 0.2 times the
    mean norm of the living ones, biases 0. Nothing waits for a GPU.
    """
    error = (x - x_hat).square().sum(-1)
    odds = error.square().nan_to_num(0, 0, 0) + torch.finfo(error.dtype).tiny
    drawn = torch.multinomial(odds / odds.sum(), sae.d_sae, replacement=True)
    directions = torch.nn.functional.normalize(x[drawn] - sae.b_dec, dim=-1)
    alive = ~dead
    norms = sae.W_enc.norm(dim=0)
    living = torch.where(alive.any(), alive, dead)  # or all, so that the encoder is never 0
    length = ENCODER_NORM * (norms * living).sum() / living.sum()
    rows = dead[:, None]
    sae.W_dec.copy_(torch.where(rows, directions, sae.W_dec))
    sae.W_enc.T.copy_(torch.where(rows, length * directions, sae.W_enc.T))
    sae.b_enc.masked_fill_(dead, 0.0)
