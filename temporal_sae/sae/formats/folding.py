"""Other conventions turned into this package's, in the weights: the function stays the same.

Here z = (x - b_dec) W_enc + b_enc and x_hat = f W_dec + b_dec. In a gated SAE the biases are
b_gate, and b_mag behind exp(r_mag). Every function returns new tensors beside the old ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 8192  # latents whose weights are in float64 at a time


def fold_uncentered_input(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From z = x W_enc + b_enc: the bias takes back what subtracting b_dec takes away."""
    shift = _product(tensors["b_dec"], tensors["W_enc"])
    if "b_gate" not in tensors:
        return {**tensors, "b_enc": _add(tensors["b_enc"], shift)}
    by_magnitude = shift * tensors["r_mag"].double().exp()
    return {
        **tensors,
        "b_gate": _add(tensors["b_gate"], shift),
        "b_mag": _add(tensors["b_mag"], by_magnitude),
    }


def fold_input_factor(tensors: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """From an SAE of x · factor whose x_hat is divided by it; latents keep their values."""
    return {
        **tensors,
        "W_enc": tensors["W_enc"] * factor,
        "W_dec": tensors["W_dec"] / factor,
        "b_dec": tensors["b_dec"] / factor,
    }


def fold_decoder_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From z_i ‖d_i‖ for z_i and d_i / ‖d_i‖ for d_i, as which latents are compared."""
    norms = tensors["W_dec"].norm(dim=-1)
    # A row of zeros means no direction: its latent is never above 0, and it stays as it is.
    divisors = torch.where(norms > 0, norms, 1.0)
    return {
        **tensors,
        "W_enc": tensors["W_enc"] * norms,
        "b_enc": tensors["b_enc"] * norms,
        "W_dec": tensors["W_dec"] / divisors[:, None],
    }


def _product(x: Float[Tensor, " d_in"], W: Float[Tensor, "d_in F"]) -> Float[Tensor, " F"]:
    """x W in float64, of which the whole of W would be too much."""
    return torch.cat([x.double() @ part.double() for part in W.split(BLOCK, dim=1)])


def _add(bias: Tensor, shift: Tensor) -> Tensor:
    return (bias.double() + shift).float()
