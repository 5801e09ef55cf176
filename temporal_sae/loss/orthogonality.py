"""The separation penalty λ2 · Σ w_ij g_ij: co-active latents are pushed towards right angles."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.errors import InvalidOption, check_choice, check_int, check_number
from temporal_sae.latents import Latents
from temporal_sae.loss.pairs import (
    PENALTIES,
    REDUCTIONS,
    PairWeights,
    activation_gram,
    frame_potential,
    off_diagonal_sum,
    overlap,
    reduce_pairs,
    unit_rows,
)
from temporal_sae.tracker.weights import WEIGHTINGS, weight_factor

EXACT_UP_TO = 1024


class OrthogonalityLoss:
    """Overlap of pairs of latents, weighted by their co-activation.

    With the defaults this is Σ_{i<j} w_ij cos²(d_i, d_j) / Σ_{i<j} w_ij over decoder rows d: a
    number in [0, 1] that does not depend on F, k, the batch or the window.

    Args:
        ortho_weight: λ2. With 0 nothing is computed at all.
        penalty: `square` (g = inner²) or `abs` (|inner|).
        gram: `decoder` (inner = cosine of decoder rows) or `activations` (f_iᵀf_j / B).
        reduction: `weighted_mean`, `sum` (i < j) or `mean` (over F²).
        weighting: which function of c and c̄ weighs a pair, see `tracker.weights`, or `uniform`:
            every pair alike, without a tracker, the control for all others.
        floor: u ≥ 0 mixes a uniform part in: w / Σ_{i≠j} w + u / (F (F - 1)).
        estimator: `exact` (all pairs, F x F temporaries), `sampled` (the pairs of `sample_tokens`
            tokens of the last window; unbiased), or `auto`: exact up to 1024 latents and wherever
            sampling is not allowed or looks at half as many pairs as there are.
        sample_tokens: M, tokens a step that `sampled` looks at.
        seed: chooses the sampled tokens, together with the number of tokens seen.

    Raises:
        InvalidOption: an option, or a combination of them, is not allowed.
    """

    def __init__(
        self,
        ortho_weight: float = 3.0,
        penalty: str = "square",
        gram: str = "decoder",
        reduction: str = "weighted_mean",
        weighting: str = "instability",
        floor: float = 0.0,
        estimator: str = "auto",
        sample_tokens: int = 256,
        seed: int = 0,
    ) -> None:
        self.ortho_weight = check_number("ortho_weight", ortho_weight)
        self.penalty = check_choice("penalty", penalty, PENALTIES)
        self.gram = check_choice("gram", gram, ("decoder", "activations"))
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.weighting = check_choice("weighting", weighting, (*WEIGHTINGS, "uniform"))
        self.floor = check_number("floor", floor)
        self.estimator = check_choice("estimator", estimator, ("auto", "exact", "sampled"))
        self.sample_tokens = check_int("sample_tokens", sample_tokens, 1)
        self.seed = check_int("seed", seed, 0)
        if estimator == "sampled" and not self._can_sample():
            allowed = "exact or auto with gram=activations, weighting=average, or a floor with abs"
            raise InvalidOption("estimator", estimator, allowed)

    def _can_sample(self) -> bool:
        """Sampling looks at the window's own pairs, so no other pair may carry weight."""
        has_uniform_part = self.floor > 0 or self.weighting == "uniform"
        return (
            self.gram == "decoder"
            and self.weighting != "average"
            and not (has_uniform_part and self.penalty == "abs")
        )

    def _samples(self, d_sae: int, tracker: PairWeights) -> bool:
        """Whether this call samples: as asked, or with `auto` where it is allowed and cheaper."""
        self.check_tracker(tracker)
        if self.estimator != "auto":
            return self.estimator == "sampled"
        window = tracker.last_window
        allowed = self._can_sample() and tracker.weights_follow_window
        if d_sae <= EXACT_UP_TO or window is None or not allowed:
            return False
        n_pairs = min(self.sample_tokens, window.shape[0]) * window.shape[1] ** 2
        return 2 * n_pairs < d_sae**2

    def check_tracker(self, tracker: PairWeights) -> None:
        """Raise InvalidOption where this penalty cannot be computed with that tracker."""
        if self.estimator == "sampled" and not tracker.weights_follow_window:
            raise InvalidOption("estimator", self.estimator, "exact or auto with this tracker")

    def __call__(
        self, W_dec: Float[Tensor, "F d_in"], tracker: PairWeights, latents: Latents | None = None
    ) -> Float[Tensor, ""]:
        """λ2 · L_sep; 0 until the tracker has closed a window (not so for `uniform`).

        Args:
            W_dec: decoder rows.
            tracker: gives the weights, which carry no gradient.
            latents: the batch's latents; needed for `gram=activations`.
        """
        ready = tracker.windows_closed > 0 or self.weighting == "uniform"
        if self.ortho_weight == 0 or not ready:
            return W_dec.new_zeros(())
        if self.weighting == "uniform" and self.gram == "decoder" and self.penalty == "square":
            total, weight_sum = self._all_pairs_alike(W_dec)
        elif self._samples(W_dec.shape[0], tracker):
            total, weight_sum = self._sampled(W_dec, tracker)
        else:
            total, weight_sum = self._exact(W_dec, tracker, latents)
        return self.ortho_weight * reduce_pairs(self.reduction, total, weight_sum, W_dec.shape[0])

    def _all_pairs_alike(self, W_dec: Tensor) -> tuple[Tensor, Tensor | float]:
        d_sae = W_dec.shape[0]
        return frame_potential(unit_rows(W_dec)), float(d_sae * (d_sae - 1))

    def _exact(
        self, W_dec: Tensor, tracker: PairWeights, latents: Latents | None
    ) -> tuple[Tensor, Tensor | float]:
        """Σ_{i≠j} w g and Σ_{i≠j} w over all pairs."""
        d_sae = W_dec.shape[0]
        if self.gram == "decoder":
            D_hat = unit_rows(W_dec)
            g = overlap(self.penalty, D_hat @ D_hat.T)
        elif latents is None:
            raise ValueError("gram='activations' needs the latents of the batch")
        else:
            g = overlap(self.penalty, activation_gram(latents, d_sae))
        weights = self._weight_matrix(tracker, d_sae, g.device)
        return off_diagonal_sum(weights, g), weights.sum()

    def _weight_matrix(self, tracker: PairWeights, d_sae: int, device: torch.device) -> Tensor:
        uniform = (1 - torch.eye(d_sae, device=device)) / (d_sae * (d_sae - 1))
        if self.weighting == "uniform":
            return uniform * (d_sae * (d_sae - 1))
        weights = tracker.weight_matrix(self.weighting).to(device)
        if self.floor:
            weights = weights / weights.sum().clamp(min=1e-12) + self.floor * uniform
        return weights

    def _sampled(self, W_dec: Tensor, tracker: PairWeights) -> tuple[Tensor, Tensor | float]:
        """The same two sums, the first estimated from some tokens of the last window.

        Σ_{i≠j} c_ij r_ij g_ij is the mean over the window's tokens of Σ r_ij g_ij over the pairs
        active in that token, so M tokens drawn without replacement estimate it without bias.
        """
        total = self._sampled_sum(unit_rows(W_dec), tracker)
        weight_sum = tracker.weight_sum(self.weighting).to(W_dec.device)
        if not self.floor:
            return total, weight_sum
        d_sae = W_dec.shape[0]
        uniform = self.floor * frame_potential(unit_rows(W_dec)) / (d_sae * (d_sae - 1))
        return total / weight_sum.clamp(min=1e-12) + uniform, (weight_sum > 0) + self.floor

    def _sampled_sum(self, D_hat: Tensor, tracker: PairWeights) -> Tensor:
        indices = self._draw_tokens(tracker).to(D_hat.device)
        active = indices >= 0
        # Not by indexing, whose gradient is neither fast nor, on several threads, reproducible.
        rows = torch.nn.functional.embedding(indices.clamp(min=0), D_hat) * active[..., None]
        g = overlap(self.penalty, rows @ rows.mT)
        i, j = torch.broadcast_tensors(indices[:, :, None], indices[:, None, :])
        counted = (i >= 0) & (j >= 0) & (i != j)
        i, j = i.clamp(min=0), j.clamp(min=0)
        factor = weight_factor(self.weighting, tracker.rate(i, j), tracker.before(i, j))
        return (g * factor.to(g.device) * counted).sum() / indices.shape[0]

    def _draw_tokens(self, tracker: PairWeights) -> Tensor:
        """M tokens of the last window; the draw is a function of the seed and the tokens seen."""
        window = tracker.last_window
        if window is None:
            raise ValueError("no window has been closed")
        generator = torch.Generator(window.device)
        generator.manual_seed(self.seed * 1_000_003 + tracker.tokens_seen)
        order = torch.randperm(window.shape[0], generator=generator, device=window.device)
        return window[order[: self.sample_tokens]]
