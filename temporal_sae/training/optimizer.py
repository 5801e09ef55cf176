"""Adam as an SAE needs it: project, clip, step and renormalise in one pass over the weights."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temporal_sae.kernels import adam, buffer_pool
from temporal_sae.kernels.row_gradient import RowGradients
from temporal_sae.sae import SparseAutoencoder

CLIP_EPSILON = 1e-6


class SAEAdam:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980) with the decoder's constraint built in.

    A step does, in this order: take out of the decoder's gradient what is along each row, clip the
    norm of the whole gradient, step, and give decoder rows unit length (the first and the last only
    where the SAE keeps its decoder unit). Every matrix is walked as [d_sae, d_in] in memory.

    Args:
        sae: whose parameters are moved.
        betas: decay rates of the two averages.
        eps: added to the root of the second.
        grad_clip: largest norm of the gradient; None for no limit.

    Attributes:
        gradients: where those of the matrices are, if not at the parameters.
    """

    gradients: RowGradients | None = None

    def __init__(
        self,
        sae: SparseAutoencoder,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        grad_clip: float | None = 1.0,
    ) -> None:
        self.sae, self.betas, self.eps, self.grad_clip = sae, betas, eps, grad_clip
        self.steps = 0
        self.lr = 0.0
        self._means = {name: torch.zeros_like(p) for name, p in sae.named_parameters()}
        self._squares = {name: torch.zeros_like(p) for name, p in sae.named_parameters()}

    @torch.no_grad()
    def step(self, lr: float) -> Float[Tensor, ""]:
        """Move the weights by the gradients that are there, which are left as they are.

        Where the gradient is not finite nothing moves.

        Returns:
            The norm of the projected gradient before clipping.
        """
        self.steps += 1
        self.lr = lr
        parts = self._squared_norms()
        assert parts, "no parameter has a gradient"
        norm = sum(parts[1:], parts[0]).sqrt().float()
        # Not finite in, not finite out: the kernels then leave everything as it is.
        clip = torch.ones_like(norm) + 0 * norm
        if self.grad_clip is not None:
            clip = (self.grad_clip / (norm + CLIP_EPSILON)).clamp(max=1) + 0 * norm
        beta1, beta2 = self.betas
        corrections = (1 - beta1**self.steps, 1 - beta2**self.steps)
        self._move(adam.AdamStep(lr, beta1, beta2, self.eps, *corrections), clip)
        return norm

    def _with_gradient(self) -> list[tuple[str, Tensor]]:
        return [(n, p) for n, p in self.sae.named_parameters() if p.grad is not None]

    def _squared_norms(self) -> list[Float[Tensor, ""]]:
        """Return Σ g² of each parameter that has a gradient, projected."""
        return [
            adam.squared_norm(as_rows(p, p), as_rows(p.grad, p), self._is_unit(p))
            for _, p in self._with_gradient()
        ]

    def _move(self, numbers: adam.AdamStep, clip: Float[Tensor, ""]) -> None:
        for name, parameter in self._with_gradient():
            w, m, v = self._as_rows(name)
            g = as_rows(parameter.grad, parameter)
            adam.adam_(w, g, m, v, numbers, clip, self._is_unit(parameter))

    def _as_rows(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return a parameter and its two averages as they lie in memory."""
        parameter = self.sae.get_parameter(name)
        m, v = (as_rows(state[name], parameter) for state in (self._means, self._squares))
        return as_rows(parameter, parameter), m, v

    def _is_unit(self, parameter: Tensor) -> bool:
        return self.sae.unit_decoder and parameter is self.sae.W_dec

    def zero_grad(self) -> None:
        """Forget the gradients, whose memory the next ones get."""
        for parameter in self.sae.parameters():
            if parameter.grad is not None:
                buffer_pool.release(parameter.grad)
            parameter.grad = None

    @torch.no_grad()
    def forget(self, latents: Bool[Tensor, " d_sae"]) -> None:
        """Start afresh for some latents: their averages become 0."""
        for state in (self._means, self._squares):
            for name, tensor in state.items():
                if name != "b_dec":
                    tensor.masked_fill_(latents if name != "W_dec" else latents[:, None], 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Number of steps and both averages."""
        return {"steps": self.steps, "mean": dict(self._means), "square": dict(self._squares)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken; the options stay those given."""
        self.steps = int(state["steps"])
        for own, saved in ((self._means, state["mean"]), (self._squares, state["square"])):
            for name, tensor in own.items():
                tensor.copy_(saved[name])
        self._load_sleep(state.get("awake_until", {}))

    def _load_sleep(self, awake_until: dict[str, Int[Tensor, " d_sae"]]) -> None:
        """Let the averages decay by the steps that rows have missed, see `RowAdam`."""
        for name, last in awake_until.items():
            missed = (self.steps - last.to(self._means[name].device)).clamp(min=0)[:, None]
            for average, beta in zip(self._as_rows(name)[1:], self.betas, strict=True):
                average *= torch.as_tensor(beta, dtype=torch.float64) ** missed


def as_rows(tensor: Tensor | None, parameter: Tensor) -> Tensor:
    """Return a parameter, or what belongs to it, as contiguous rows in the order of its memory.

    That is itself, or its transpose if the parameter lies in memory like that.
    """
    assert tensor is not None
    if parameter.ndim < 2:
        return tensor.reshape(1, -1)
    return (tensor if parameter.is_contiguous() else tensor.T).contiguous()
