"""The backward pass of a step: the loss proper, and the orthogonality penalty, timed apart."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from temporal_sae.distributed import all_gather, all_reduce_mean_, rank, world_size
from temporal_sae.errors import NotFinite, RunError
from temporal_sae.kernels.row_gradient import RowGradients
from temporal_sae.latents import Latents
from temporal_sae.sae import SparseAutoencoder, StepOutput
from temporal_sae.training.optimizer import as_rows
from temporal_sae.training.parts import DecoderPenalty, Parts
from temporal_sae.training.stopwatch import Stopwatch


def backward(
    parts: Parts,
    main: Tensor,
    out: StepOutput,
    watch: Stopwatch,
    is_due: bool = True,
    gradients: RowGradients | None = None,
) -> Tensor:
    """Leave the gradient of `main` plus the penalty in the parameters; returns the penalty.

    Args:
        main: reconstruction and the architecture's own terms.
        watch: runs while the penalty and its gradient are computed.
        is_due: whether the penalty acts in this step; otherwise it is 0.
        gradients: where those of the matrices are left instead.

    Raises:
        RunError: the decoder is no longer finite.
    """
    try:
        if not is_due:
            main.backward()
            penalty = main.new_zeros(())
        elif parts.penalty.through_latents:
            penalty = _through_latents(parts, main, out, watch, gradients)
        else:
            penalty = _by_decoder(parts, main, watch, gradients)
    except NotFinite as error:
        raise RunError(f"{error}: lower trainer.lr or raise trainer.warmup_steps") from None
    average_gradients(parts.sae)
    return penalty


def average_gradients(sae: SparseAutoencoder) -> None:
    """Give all processes the mean of their gradients, to the bit.

    What of a gradient each process has computed for all, as that of a penalty on the decoder,
    takes part too, lest rounding on a GPU lets the weights drift apart.
    """
    if world_size() == 1:
        return
    small = [p.grad for p in sae.parameters() if p.ndim < 2 and p.grad is not None]
    for gradient, mean in zip(
        small, all_reduce_mean_(torch.cat(small)).split([*map(len, small)]), strict=True
    ):
        gradient.copy_(mean)
    for parameter in sae.parameters():
        if parameter.ndim == 2 and parameter.grad is not None:
            rows = all_reduce_mean_(as_rows(parameter.grad, parameter))
            parameter.grad = rows if parameter.is_contiguous() else rows.T


def _by_decoder(
    parts: Parts, main: Tensor, watch: Stopwatch, gradients: RowGradients | None
) -> Tensor:
    """The penalty adds to the gradient that is there, so that no second one is ever held."""
    main.backward()
    W_dec = parts.sae.W_dec
    on_decoder = cast(DecoderPenalty, parts.penalty)
    with watch.running():
        if gradients is not None:
            return on_decoder.add_gradient(W_dec, parts.tracker, gradients.W_dec)
        into = torch.zeros_like(W_dec) if W_dec.grad is None else W_dec.grad
        penalty = on_decoder.add_gradient(W_dec, parts.tracker, into)
        W_dec.grad = into
    return penalty


def _through_latents(
    parts: Parts,
    main: Tensor,
    out: StepOutput,
    watch: Stopwatch,
    gradients: RowGradients | None,
) -> Tensor:
    """A gradient by the latents has to go on through the encoder, together with that of `main`."""
    values, W_dec = out.latents.values, parts.sae.W_dec
    with watch.running():
        # A leaf: the values may depend on the decoder, and `main` still needs their graph.
        leaf = values.detach().requires_grad_(values.requires_grad)
        penalty = parts.penalty(
            W_dec, parts.tracker, latents_of_all(Latents(leaf, out.latents.indices))
        )
        if penalty.requires_grad:
            by_values, by_decoder = torch.autograd.grad(penalty, [leaf, W_dec], allow_unused=True)
    if not penalty.requires_grad:
        main.backward()
        return penalty
    if by_values is None:
        main.backward()
    else:
        # Each process has the gradient by its own part of the latents, of which the mean is taken.
        by_values = by_values * world_size() if world_size() > 1 else by_values
        torch.autograd.backward([main, values], [None, by_values])
    if by_decoder is not None and gradients is not None:
        gradients.W_dec.add_all(by_decoder)
    elif by_decoder is not None:
        W_dec.grad = by_decoder if W_dec.grad is None else W_dec.grad.add_(by_decoder)
    return penalty.detach()


def latents_of_all(latents: Latents) -> Latents:
    """Return the latents of the whole batch; the gradient goes by those of this process."""
    if world_size() == 1:
        return latents
    indices, parts = all_gather(latents.indices, -1), all_gather(latents.values.detach())
    parts[rank()] = latents.values
    width = max(part.shape[1] for part in parts)
    room = [(0, width - part.shape[1]) for part in parts]
    values = torch.cat([pad(part, sides) for part, sides in zip(parts, room, strict=True)])
    places = [pad(part, sides, value=-1) for part, sides in zip(indices, room, strict=True)]
    return Latents(values, torch.cat(places))
