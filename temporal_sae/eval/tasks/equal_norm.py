"""Ablations that take equally much away, whatever the size of an SAE's latents.

Setting latents S to zero takes r = Σ_{j in S} f_j W_dec[j] away. Where one SAE's latents are 10 %
larger than another's, ablating as many of them takes 10 % more away, and costs more for that reason
alone. So scores are given a second time with s·r taken away instead of r, where

    s = share · √E‖x - E x‖² / √E‖r‖²

over the rows on which the score is measured: what is removed has `share` of the deviation of the
activations, in the root mean square. s is one number for a set of latents, so that rows without its
latents stay as they are, and E x is that of the rows, so that an offset of all activations does not
count. Multiplying the latents, or a decoder row, by a number changes r and s·r not at all. It is
scaled, and not read off between two numbers of latents, because a curve over these would mix which
latents are taken with how much, and would have to be extrapolated where few latents are ablated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.activations import LanguageModel
from temporal_sae.eval.tasks.activations import Tokens
from temporal_sae.sae import SparseAutoencoder


def equal_norm_factor(
    removed: Float[Tensor, "rows d_in"], x: Float[Tensor, "rows d_in"], share: float
) -> float:
    """Return s, the factor at which what is removed has a share of the activations' deviation.

    Args:
        removed: what ablating takes away from each row.
        x: the rows.
        share: of √E‖x - E x‖².

    Returns:
        0 where nothing is removed at all.
    """
    squares = float(removed.double().pow(2).sum())
    deviation = float((x - x.mean(0)).double().pow(2).sum())
    return share * math.sqrt(deviation / squares) if squares > 0 else 0.0


@torch.no_grad()
def token_factors(
    model: LanguageModel,
    sae: SparseAutoencoder,
    batches: Sequence[Tokens],
    ablations: Sequence[Int[Tensor, " n"]],
    share: float,
) -> list[float]:
    """Return s of each set of latents over all counted tokens of some batches of texts.

    Args:
        model: reads the texts up to the hook.
        sae: whose latents are ablated.
        batches: of texts, each as it is run.
        ablations: the sets of latents.
        share: as for `equal_norm_factor`.
    """
    squares = torch.zeros(len(ablations), dtype=torch.float64)
    n, mean, deviation = 0, torch.zeros(()), 0.0  # deviation: Σ‖x - mean‖² until now
    for tokens in batches:
        x = model.activations(tokens.ids)[tokens.counted.to(model.device)]
        acts = sae.encode_dense(x.to(sae.W_dec.dtype))
        removed = [acts[:, own] @ sae.W_dec[own] for own in ablations]
        squares += torch.stack([r.double().pow(2).sum() for r in removed]).cpu()
        x = x.double().cpu()
        own_mean, more = x.mean(0), len(x)
        if more:  # Chan, Golub and LeVeque 1983: squares around a mean that moves
            between = float((own_mean - mean).pow(2).sum()) * n * more / (n + more)
            deviation += float((x - own_mean).pow(2).sum()) + between
            mean = (n * mean + more * own_mean) / (n + more)
            n += more
    return [share * math.sqrt(deviation / s) if s > 0 else 0.0 for s in squares.tolist()]
