"""Start the training of an SAE from one that is trained already."""

from __future__ import annotations

import logging

import torch

from temporal_sae.errors import InvalidOption
from temporal_sae.sae.base import SparseAutoencoder

log = logging.getLogger(__name__)

NEEDED = ("W_enc", "b_enc", "W_dec", "b_dec")


def check_start(sae: SparseAutoencoder, trained: SparseAutoencoder) -> None:
    """Refuse to start from an SAE that has other sizes, or lacks weights.

    Raises:
        InvalidOption: see above.
    """
    sizes = [(each.d_in, each.d_sae) for each in (sae, trained)]
    if sizes[0] != sizes[1]:
        own, found = (f"d_in {d_in} and d_sae {d_sae}" for d_in, d_sae in sizes)
        allowed = f"one with {own}, as the activations and sae.d_sae have it"
        raise InvalidOption("finetune", f"an SAE with {found}", allowed)
    if missing := [name for name in NEEDED if name not in shared_names(sae, trained)]:
        raise InvalidOption("finetune", trained.trained_as, f"an SAE that has {missing[0]}")


def shared_names(sae: SparseAutoencoder, trained: SparseAutoencoder) -> set[str]:
    """Names of the weights that both have, in one shape."""
    own, state = sae.state_dict(), trained.state_dict()
    return {name for name in own.keys() & state.keys() if own[name].shape == state[name].shape}


@torch.no_grad()
def start_from(sae: SparseAutoencoder, trained: SparseAutoencoder, scale: float) -> None:
    """Give an SAE the weights of another, which may be of another architecture.

    Args:
        sae: to be trained on x / scale; keeps its options, such as k.
        trained: takes x as it is.
        scale: of the input.

    Raises:
        InvalidOption: they have other sizes, or no weights in common.
    """
    check_start(sae, trained)
    own_state, state = sae.state_dict(), trained.state_dict()
    same = shared_names(sae, trained)
    if left := sorted(own_state.keys() - same):
        log.info("finetune: %s begins anew, which the trained SAE does not have", ", ".join(left))
    for name in same:
        own_state[name].copy_(state[name])
    sae.fold_input_scale(1 / scale)
    if sae.unit_decoder:
        _make_rows_unit(sae)


def _make_rows_unit(sae: SparseAutoencoder) -> None:
    """Move the lengths of decoder rows into the latents; each contributes what it has before."""
    lengths = sae.W_dec.norm(dim=-1)
    if torch.allclose(lengths, torch.ones_like(lengths), atol=1e-4):
        return
    log.info("finetune: decoder rows had lengths of %.3g to %.3g", lengths.min(), lengths.max())
    lengths = lengths.clamp(min=1e-12)
    sae.W_dec.div_(lengths[:, None])
    sae.W_enc.mul_(lengths)
    for name, tensor in sae.state_dict().items():
        if tensor.shape == lengths.shape and name != "r_mag":  # which is a logarithm of a ratio
            tensor.mul_(lengths)
