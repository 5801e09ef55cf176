"""Reconstruction quality, shrinkage and sparsity from one pass over activations."""

from __future__ import annotations

import math
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from temporal_sae.eval.sequence_sums import SequenceSums, nonzero
from temporal_sae.latents import Latents
from temporal_sae.loss.terms import is_constant
from temporal_sae.metrics import ROW_SECTIONS, Metric, declare

of_quality, of_shrinkage, of_sparsity = (
    partial(Metric, sections=ROW_SECTIONS, groups=("metrics", group))
    for group in ("reconstruction_quality", "shrinkage", "sparsity")
)
METRICS = declare(
    of_quality(
        name="explained_variance", better="higher", label="explained variance", headline=True
    ),
    of_quality(
        name="explained_variance_legacy", better="higher", label="explained variance, legacy"
    ),
    of_quality(name="mse", better="lower"),
    of_quality(name="cossim", better="higher", label="cosine"),
    of_shrinkage(name="l2_norm_in", compared=False),
    of_shrinkage(name="l2_norm_out"),
    of_shrinkage(name="l2_ratio", label="L2 ratio"),
    of_shrinkage(name="relative_reconstruction_bias", label="reconstruction bias"),
    of_sparsity(name="l0", label="L0", form="{:.1f}"),
    of_sparsity(name="l1"),
)

# Means over rows, and the count that each is divided by: a row of zeros has no direction.
MEANS = {
    "explained_variance_legacy": "tokens",
    "cossim": "with_direction",
    "l2_ratio": "with_direction",
    "l0": "tokens",
}


class ReconstructionSums:
    """Running sums in float64, so that the result does not depend on the batches.

    Args:
        d_in: width of the activations.
        device: where the sums live.
    """

    def __init__(self, d_in: int, device: torch.device) -> None:
        self.tokens = 0
        self._d_in = d_in
        self._sums = SequenceSums()
        self._center: Tensor | None = None  # near the mean, so that little cancels
        self._x_sum = torch.zeros(d_in, dtype=torch.float64, device=device)

    def add(
        self,
        x: Float[Tensor, "tokens d_in"],
        latents: Latents,
        x_hat: Float[Tensor, "tokens d_in"],
        counted: Bool[Tensor, "sequences context"] | None = None,
    ) -> None:
        """Take in a batch.

        Args:
            x: activations.
            latents: of them.
            x_hat: their reconstruction.
            counted: which positions of which sequences the tokens are, in order; without it they
                are one sequence, and intervals then say how much batches differ.
        """
        self.tokens += x.shape[0]
        if counted is None:
            counted = torch.ones(1, x.shape[0], dtype=torch.bool, device=x.device)
        if self._center is None:
            self._center = x.mean(0)
        error = (x - x_hat).square().sum(-1)
        norm_in, norm_out = x.norm(dim=-1), x_hat.norm(dim=-1)
        inner = (x * x_hat).sum(-1)
        centered = (x - x.mean(0)).square().sum(-1)
        has_direction = norm_in > 0
        per_token = {
            "tokens": torch.ones_like(error),
            "with_direction": has_direction.to(error.dtype),
            "squared_error": error,
            "spread": (x - self._center).square().sum(-1),
            "l2_norm_in": norm_in,
            "l2_norm_out": norm_out,
            "l2_ratio": torch.where(has_direction, norm_out / norm_in.clamp(min=1e-12), 0.0),
            "cossim": inner / (norm_in * norm_out).clamp(min=1e-12),
            "x_hat_squared": norm_out.square(),
            "inner": inner,
            "explained_variance_legacy": 1 - error / centered.clamp(min=1e-12),
            "l0": (latents.values > 0).sum(-1),
            "l1": latents.values.sum(-1),
        }
        self._sums.add(**{name: by_sequence(values, counted) for name, values in per_token.items()})
        self._x_sum += x.sum(0)

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the metrics in SAEBench's groups."""
        totals = self._sums.totals()
        mean = {name: total / self.tokens for name, total in totals.items()}
        mean |= {name: totals[name] / _nonzero(totals[per]) for name, per in MEANS.items()}
        variance = self._variance()
        legacy = mean["explained_variance_legacy"]
        return {
            "reconstruction_quality": {
                "explained_variance": 1 - mean["squared_error"] / variance,
                "explained_variance_legacy": variance if math.isnan(variance) else legacy,
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
        }

    @property
    def varies(self) -> bool:
        """True where activations differ; if not, the share of variance explained is NaN."""
        return not math.isnan(self._variance())

    def intervals(self, seed: int) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval over sequences of each measure of reconstruction, and of L0."""
        offset = self._offset()
        means = {
            name: self._sums.interval(seed, lambda s, n=name, d=per: s[n] / nonzero(s[d]))  # type: ignore[misc]
            for name, per in MEANS.items()
        }
        explained = self._sums.interval(
            seed, lambda s: 1 - s["squared_error"] / nonzero(s["spread"] - offset * s["tokens"])
        )
        mse = self._sums.interval(
            seed, lambda s: s["squared_error"] / nonzero(s["tokens"]) / self._d_in
        )
        intervals = {"explained_variance": explained, "mse": mse, **means}
        if not self.varies:
            undefined = ("explained_variance", "explained_variance_legacy")
            intervals |= dict.fromkeys(undefined, (math.nan, math.nan))
        return intervals

    def _variance(self) -> float:
        """E‖x - mean‖², NaN where that is rounding."""
        mean = {name: total / self.tokens for name, total in self._sums.totals().items()}
        variance = mean["spread"] - self._offset()
        return math.nan if is_constant(variance, mean["l2_norm_in"] ** 2) else variance

    def _offset(self) -> float:
        """‖mean - center‖²: what the spread about the center holds beyond the variance."""
        center = 0.0 if self._center is None else self._center.double()
        return float((self._x_sum / self.tokens - center).square().sum())


def by_sequence(
    values: Float[Tensor, " tokens"], counted: Bool[Tensor, "sequences context"]
) -> Float[Tensor, " sequences"]:
    """Sum the values of each sequence's tokens, in float64 and always in the same order."""
    places = torch.zeros(counted.shape, dtype=torch.float64, device=values.device)
    return places.masked_scatter(counted, values.double()).sum(1)


def _nonzero(value: float) -> float:
    return value if abs(value) > 1e-12 else 1e-12
