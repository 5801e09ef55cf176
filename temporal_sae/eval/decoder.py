"""Measures of the decoder alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.loss.pairs import unit_rows


@torch.no_grad()
def decoder_metrics(W_dec: Float[Tensor, "d_sae d_in"], chunk: int = 1024) -> dict[str, float]:
    """Effective rank exp H(σ/Σσ), and the mean over latents of the largest cosine to another."""
    sigma = torch.linalg.svdvals(W_dec.float())
    share = (sigma / sigma.sum()).clamp(min=1e-30)
    return {
        "decoder_effective_rank": float((-(share * share.log()).sum()).exp()),
        "decoder_mean_max_cosine": float(max_cosines(W_dec.float(), chunk).mean()),
    }


def max_cosines(W_dec: Float[Tensor, "d_sae d_in"], chunk: int) -> Float[Tensor, " d_sae"]:
    """Largest cosine of each row to any other, a chunk of rows at a time."""
    rows = unit_rows(W_dec)
    largest = []
    for start in range(0, rows.shape[0], chunk):
        cosines = rows[start : start + chunk] @ rows.T
        own = torch.arange(cosines.shape[0], device=rows.device)
        cosines[own, own + start] = -torch.inf
        largest.append(cosines.max(-1).values)
    return torch.cat(largest)
