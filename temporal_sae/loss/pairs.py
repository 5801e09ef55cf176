"""Pieces that every penalty on pairs shares."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.errors import NotFinite
from temporal_sae.kernels.overlap import EPSILON
from temporal_sae.latents import Latents

PENALTIES = ("square", "abs")
REDUCTIONS = ("weighted_mean", "sum", "mean")


class Warmup(Protocol):
    """Counts of latents during warm-up."""

    n_windows: int

    @property
    def n(self) -> Int[Tensor, " F"] | None: ...
    def bins(self) -> Int[Tensor, " F"]: ...


class PairWeights(Protocol):
    """The side of a tracker that a penalty sees; all weights are constants to the gradient."""

    n_latents: int
    windows_closed: int
    tokens_seen: int
    weights_follow_window: bool
    totals_from: int | None

    @property
    def warmup(self) -> Warmup | None: ...
    @property
    def last_window(self) -> Int[Tensor, "W K"] | None: ...
    def has_weights(self, weighting: str) -> bool: ...
    def tokens_before(self, windows: int) -> int: ...
    def tokens_before_weights(self, weighting: str) -> int: ...
    def factors(self, weighting: str) -> Float[Tensor, " F"] | None: ...
    def relative_weights(self, tokens: Tensor, weighting: str) -> Float[Tensor, "M K K"]: ...
    def weight_rows(self, lo: int, hi: int, weighting: str) -> Float[Tensor, "rows F"]: ...
    def rate_matrix(self) -> Float[Tensor, "F F"]: ...
    def weight_sum(self, weighting: str, of_window: bool = False) -> Float[Tensor, ""]: ...


def check_decoder(W_dec: Tensor, n_latents: int) -> None:
    """Raise ValueError unless W_dec has a row for each latent, NotFinite unless it is finite."""
    if not W_dec.is_floating_point() or W_dec.ndim != 2 or W_dec.shape[0] != n_latents:
        found = f"{W_dec.dtype} {tuple(W_dec.shape)}"
        raise ValueError(f"W_dec: is {found}, must be a float matrix of {n_latents} rows")
    if W_dec.device.type == "cpu" and not bool(W_dec.detach().sum().isfinite()):
        bad = ~W_dec.detach().isfinite().all(-1)
        if bool(bad.any()):
            raise NotFinite(f"W_dec: row {int(bad.nonzero()[0])} is not finite")


def draw_seed(seed: int, tokens_seen: int) -> int:
    """Return a function of the seed and the tokens seen, so that a resumed run draws the same."""
    return (seed * 1_000_003 + tokens_seen) % 2**63


def permutation(n: int, seed: int, tokens_seen: int, device: torch.device) -> Int[Tensor, " n"]:
    """Return a permutation, drawn by `draw_seed`."""
    generator = torch.Generator(device)
    generator.manual_seed(draw_seed(seed, tokens_seen))
    return torch.randperm(n, generator=generator, device=device)


def unit_rows(W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "d_sae d_in"]:
    """Rows divided by max(‖row‖, 1e-12)."""
    return W_dec / W_dec.norm(dim=-1, keepdim=True).clamp(min=EPSILON)


def activation_gram(latents: Latents, d_sae: int) -> Float[Tensor, "F F"]:
    """f_iᵀ f_j / B over the tokens of a batch."""
    acts = latents.to_dense(d_sae)
    return acts.T @ acts / acts.shape[0]


def reduction_factor(reduction: str, weight_sum: Tensor | float, d_sae: int) -> Tensor | float:
    """Return the factor that turns Σ_{i≠j} w g into the penalty.

    `weighted_mean`: 1 / max(Σ w, 1e-12). `sum`: 1/2, for the sum over i < j, the formula to the
    letter. `mean`: 1 / F², as the reference run had it.
    """
    if reduction == "sum":
        return 0.5
    if reduction == "mean":
        return 1 / d_sae**2
    return 1 / torch.as_tensor(weight_sum).clamp(min=2 * EPSILON)


def sorted_latents(latents: Latents, d_sae: int) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Active latents of each token ascending, -1 after them, and their values, 0 there."""
    active = latents.values > 0
    filled = torch.where(active & (latents.indices >= 0), latents.indices, d_sae)
    filled, order = filled.sort(-1)
    values = latents.values.gather(1, order) * (filled < d_sae)
    return torch.where(filled < d_sae, filled, -1).int(), values
