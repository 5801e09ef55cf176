"""Adam for gradients of few rows, which leaves out the latents that have long had none."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from temporal_sae.kernels import adam
from temporal_sae.kernels.row_gradient import RowGradient, RowGradients
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.training.optimizer import SAEAdam

STILL = 1e-4  # of a learning rate: a row sleeps once all it has yet to move is less
NEVER = 2**62  # steps


class RowAdam(SAEAdam):
    """Adam whose gradients of both matrices are those of some rows, in `gradients`.

    A row without a gradient moves as it would by a gradient of 0: its averages decay, and what is
    left of the first moves it. Once all that is still to come is less than 1e-4 learning rates, for
    each of its numbers, the row sleeps: it is not touched, and when it has a gradient again the
    averages first decay by all the steps in between. With the usual decay rates that is after 129
    steps. Apart from that movement, and from rounding, the weights are those of `SAEAdam`.

    Args: as of `SAEAdam`; on a CPU.

    Attributes:
        gradients: of the matrices; the step takes them from there.
    """

    gradients: RowGradients

    def __init__(
        self,
        sae: SparseAutoencoder,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        grad_clip: float | None = 1.0,
    ) -> None:
        super().__init__(sae, betas, eps, grad_clip)
        size = (sae.d_sae, sae.d_in)
        self.gradients = RowGradients(RowGradient(*size), RowGradient(*size))
        self._lasts = steps_of_movement(*betas)
        self._awake_until = {
            name: torch.zeros(sae.d_sae, dtype=torch.int64) for name in self.gradients._fields
        }

    def _squared_norms(self) -> list[Float[Tensor, ""]]:
        return super()._squared_norms() + [
            self._squared_norm(name, gradient)
            for name, gradient in self.gradients._asdict().items()
            if len(gradient.rows)
        ]

    def _squared_norm(self, name: str, gradient: RowGradient) -> Float[Tensor, ""]:
        if not self._is_unit(self.sae.get_parameter(name)):
            return adam.squared_norm(gradient.values, gradient.values, False)
        weights, _, _ = self._as_rows(name)
        return adam.squared_norm(embedding(gradient.rows, weights), gradient.values, True)

    def _move(self, numbers: adam.AdamStep, clip: Float[Tensor, ""]) -> None:
        super()._move(numbers, clip)
        for name, gradient in self.gradients._asdict().items():
            w, m, v = self._as_rows(name)
            sleep = adam.Sleep(gradient.places, self._awake_until[name], self.steps, self._lasts)
            is_unit = self._is_unit(self.sae.get_parameter(name))
            adam.adam_rows_(w, gradient.values, m, v, numbers, clip, is_unit, sleep)

    def zero_grad(self) -> None:
        super().zero_grad()
        for gradient in self.gradients:
            gradient.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return what `SAEAdam` has, and the last step in which each row has moved, or will."""
        return {**super().state_dict(), "awake_until": dict(self._awake_until)}

    def _load_sleep(self, awake_until: dict[str, Int[Tensor, " d_sae"]]) -> None:
        """Continue; after `SAEAdam` any row may still be moving."""
        for name, last in self._awake_until.items():
            if awake_until:
                last.copy_(awake_until[name])
            else:
                last.fill_(self.steps + self._lasts)


def steps_of_movement(beta1: float, beta2: float) -> int:
    """Return the steps after a gradient until less than 1e-4 learning rates of movement are left.

    In the n-th step without a gradient a weight moves by lr ρⁿ |m|/√v with ρ = β1/√β2, and |m|/√v
    is at most (1 - β1)/√((1 - β2)(1 - ρ²)): Cauchy and Schwarz on averages of the same gradients.
    """
    ratio = beta1 / math.sqrt(beta2) if beta2 else math.inf
    if ratio >= 1:
        return NEVER  # it does not die away
    if ratio == 0:
        return 0
    most = (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    return max(0, math.ceil(math.log(STILL * (1 - ratio) / most) / math.log(ratio)) - 1)
