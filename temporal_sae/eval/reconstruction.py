"""Reconstruction quality, shrinkage and sparsity from one pass over activations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.latents import Latents

DENSE_ABOVE = 0.1


class ReconstructionSums:
    """Running sums in float64, so that the result does not depend on the batches.

    Args:
        d_sae: number of latents.
        d_in: width of the activations.
        device: where the sums live.
    """

    def __init__(self, d_sae: int, d_in: int, device: torch.device) -> None:
        self.tokens = 0
        self._d_in = d_in
        self._sums: dict[str, Tensor] = {}
        self._x_sum = torch.zeros(d_in, dtype=torch.float64, device=device)
        self._fired = torch.zeros(d_sae + 1, dtype=torch.int64, device=device)

    def add(
        self, x: Float[Tensor, "tokens d_in"], latents: Latents, x_hat: Float[Tensor, "tokens d_in"]
    ) -> None:
        """Take in a batch."""
        self.tokens += x.shape[0]
        error = (x - x_hat).square().sum(-1)
        norm_in, norm_out = x.norm(dim=-1), x_hat.norm(dim=-1)
        inner = (x * x_hat).sum(-1)
        centered = (x - x.mean(0)).square().sum(-1)
        self._accumulate(
            squared_error=error,
            x_squared=norm_in.double().square(),
            l2_norm_in=norm_in,
            l2_norm_out=norm_out,
            l2_ratio=norm_out / norm_in.clamp(min=1e-12),
            cossim=inner / (norm_in * norm_out).clamp(min=1e-12),
            x_hat_squared=norm_out.square(),
            inner=inner,
            explained_variance_legacy=1 - error / centered.clamp(min=1e-12),
            l0=(latents.values > 0).sum(-1),
            l1=latents.values.sum(-1),
        )
        self._x_sum += x.sum(0)
        last = self._fired.shape[0] - 1
        active = latents.active_indices()
        self._fired += torch.bincount(
            torch.where(active >= 0, active, last).flatten(), minlength=last + 1
        )

    def _accumulate(self, **per_token: Tensor) -> None:
        for name, values in per_token.items():
            self._sums[name] = self._sums.get(name, 0.0) + values.double().sum()

    def metrics(self) -> dict[str, dict[str, float]]:
        """The metrics in SAEBench's groups."""
        mean = {name: float(total) / self.tokens for name, total in self._sums.items()}
        density = self._fired[:-1].double() / self.tokens
        variance = mean["x_squared"] - float((self._x_sum / self.tokens).square().sum())
        return {
            "reconstruction_quality": {
                "explained_variance": 1 - mean["squared_error"] / max(variance, 1e-12),
                "explained_variance_legacy": mean["explained_variance_legacy"],
                "mse": mean["squared_error"] / self._d_in,
                "cossim": mean["cossim"],
            },
            "shrinkage": {
                "l2_norm_in": mean["l2_norm_in"],
                "l2_norm_out": mean["l2_norm_out"],
                "l2_ratio": mean["l2_ratio"],
                "relative_reconstruction_bias": mean["x_hat_squared"] / _nonzero(mean["inner"]),
            },
            "sparsity": {"l0": mean["l0"], "l1": mean["l1"]},
            "misc_metrics": {
                "frac_alive": float((density > 0).double().mean()),
                "dead_share": float((density == 0).double().mean()),
                "freq_over_1_percent": float((density > 0.01).double().mean()),
                "freq_over_10_percent": float((density > DENSE_ABOVE).double().mean()),
            },
        }


def _nonzero(value: float) -> float:
    return value if abs(value) > 1e-12 else 1e-12
