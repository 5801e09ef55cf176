"""The backward pass of a step: the loss proper, and the separation penalty, timed apart."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from temporal_sae.errors import NotFinite, RunError
from temporal_sae.sae import StepOutput
from temporal_sae.training.parts import DecoderSeparation, Parts
from temporal_sae.training.stopwatch import Stopwatch


def backward(parts: Parts, main: Tensor, out: StepOutput, watch: Stopwatch) -> Tensor:
    """Leave the gradient of `main` plus the penalty in the parameters; returns the penalty.

    Args:
        main: reconstruction and the architecture's own terms.
        watch: runs while the penalty and its gradient are computed.

    Raises:
        RunError: the decoder is no longer finite.
    """
    try:
        if parts.separation.through_latents:
            return _through_latents(parts, main, out, watch)
        return _by_decoder(parts, main, watch)
    except NotFinite as error:
        raise RunError(f"{error}: lower trainer.lr or raise trainer.warmup_steps") from None


def _by_decoder(parts: Parts, main: Tensor, watch: Stopwatch) -> Tensor:
    """The penalty adds to the gradient that is there, so that no second one is ever held."""
    main.backward()
    W_dec = parts.sae.W_dec
    with watch.running():
        into = torch.zeros_like(W_dec) if W_dec.grad is None else W_dec.grad
        separation = cast(DecoderSeparation, parts.separation)
        penalty = separation.add_gradient(W_dec, parts.tracker, into)
        W_dec.grad = into
    return penalty


def _through_latents(parts: Parts, main: Tensor, out: StepOutput, watch: Stopwatch) -> Tensor:
    """A gradient by the latents has to go on through the encoder, together with that of `main`."""
    values = out.latents.values
    with watch.running():
        penalty = parts.separation(parts.sae.W_dec, parts.tracker, out.latents)
        if penalty.requires_grad:
            (by_values,) = torch.autograd.grad(penalty, [values])
    if penalty.requires_grad:
        torch.autograd.backward([main, values], [None, by_values])
    else:
        main.backward()
    return penalty.detach()
