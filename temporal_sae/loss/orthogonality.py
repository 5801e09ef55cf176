"""The separation penalty λ2 · Σ w_ij g_ij: co-active latents are pushed towards right angles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.errors import InvalidOption, check_bool, check_choice, check_int, check_number
from temporal_sae.kernels.plain import EPSILON
from temporal_sae.latents import Latents
from temporal_sae.loss.pairs import (
    PENALTIES,
    REDUCTIONS,
    PairWeights,
    check_decoder,
    reduction_factor,
)
from temporal_sae.loss.products import WithGradient, differentiable, planned_for_rows
from temporal_sae.loss.sums import PairSums
from temporal_sae.machine import Planned
from temporal_sae.registry import component
from temporal_sae.tracker.weights import WEIGHTINGS


class Term(NamedTuple):
    """coefficient · function(x), where x is the decoder or the latents' values."""

    function: WithGradient
    coefficient: Tensor | float
    x: Tensor


@component("loss")
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
        permuted: the control for what co-activation does: the same weights on other pairs. A
            permutation π of the latents, fixed by `seed`, gives w_ij to the pair (π(i), π(j)), so
            that how large the weights are and how they hang together stay, and which latents they
            speak of does not. The uniform part is the same either way.
        floor: u ≥ 0 mixes a uniform part in: w / Σ_{i≠j} w + u / (F (F - 1)).
        estimator: `exact` (every pair that carries weight: those of the window's tokens, or all
            pairs in blocks, whichever are fewer), `sampled` (the pairs of `sample_tokens` tokens
            of the last window, and for a uniform part those of 512 latents; unbiased), or `auto`:
            exact where that is cheap (at most 2^16 pairs, as of 256 latents), and wherever sampling
            is not allowed or not cheaper; a uniform part is exact up to 1024 latents.
        sample_tokens: M, tokens a step that `sampled` looks at; None for 16, and 8 where a token
            has more than 200 latents.
        seed: chooses the sampled tokens, together with the number of tokens seen, and π.

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
        sample_tokens: int | None = None,
        seed: int = 0,
        permuted: bool = False,
    ) -> None:
        self.ortho_weight = check_number("ortho_weight", ortho_weight)
        self.penalty = check_choice("penalty", penalty, PENALTIES)
        self.gram = check_choice("gram", gram, ("decoder", "activations"))
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.weighting = check_choice("weighting", weighting, (*WEIGHTINGS, "uniform"))
        self.floor = check_number("floor", floor)
        self.estimator = check_choice("estimator", estimator, ("auto", "exact", "sampled"))
        self.sample_tokens = (
            None if sample_tokens is None else check_int("sample_tokens", sample_tokens, 1)
        )
        self.seed = check_int("seed", seed, 0)
        self.permuted = check_bool("permuted", permuted)
        self.through_latents = gram == "activations"
        self.needs_tracker = weighting != "uniform"
        if estimator == "sampled" and not self._can_sample():
            allowed = "exact or auto with gram=activations or weighting=average"
            raise InvalidOption("estimator", estimator, allowed)
        if permuted and not self.needs_tracker:
            raise InvalidOption("permuted", permuted, "false with weighting=uniform: all are alike")

    def _can_sample(self) -> bool:
        """Sampling looks at the window's own pairs, so no other pair may carry a weight."""
        return self.gram == "decoder" and self.weighting != "average"

    def planned_bytes(self, n_latents: int, d_in: int) -> dict[str, Planned]:
        """A gradient of the decoder, and the pairs that are looked at together."""
        return planned_for_rows(n_latents, d_in)

    def check_tracker(self, tracker: PairWeights) -> None:
        """Raise InvalidOption where this penalty cannot be computed with that tracker."""
        follows = tracker.weights_follow_window or not self.needs_tracker
        if self.estimator == "sampled" and not follows:
            raise InvalidOption("estimator", self.estimator, "exact or auto with this tracker")

    def __call__(
        self, W_dec: Float[Tensor, "F d_in"], tracker: PairWeights, latents: Latents | None = None
    ) -> Float[Tensor, ""]:
        """λ2 · L_sep; 0 until the tracker has closed a window (not so for `uniform`).

        Args:
            W_dec: decoder rows.
            tracker: gives the weights, which carry no gradient.
            latents: the batch's latents; needed for `gram=activations`.

        Raises:
            ValueError: an argument does not fit the others, or a decoder row is not finite (which
                is looked at on the CPU only, since elsewhere it would wait for the device).
            InvalidOption: the estimator is `sampled` and the tracker's weights are not its
                window's.
        """
        value = W_dec.new_zeros(())
        for term in self._terms(W_dec, tracker, latents):
            value = value + term.coefficient * differentiable(term.function, term.x)
        return value

    @torch.no_grad()
    def add_gradient(
        self, W_dec: Float[Tensor, "F d_in"], tracker: PairWeights, into: Float[Tensor, "F d_in"]
    ) -> Float[Tensor, ""]:
        """The same number, its gradient by the decoder added to `into`: one pass, no autograd.

        For `gram=decoder`, and for training steps: nothing of the decoder's size is allocated when
        sampling.
        """
        value = W_dec.new_zeros(())
        for term in self._terms(W_dec, tracker, None):
            value += term.coefficient * term.function(W_dec.detach(), into, term.coefficient)
        return value

    def _terms(
        self, W_dec: Tensor, tracker: PairWeights, latents: Latents | None
    ) -> Iterator[Term]:
        """What the penalty is the sum of; nothing before the first window."""
        self.check_tracker(tracker)
        ready = tracker.windows_closed > 0 or not self.needs_tracker
        if self.ortho_weight == 0 or not ready:
            return
        check_decoder(W_dec, tracker.n_latents)
        pairs = PairSums(self, W_dec, tracker, latents)
        n_pairs = pairs.d_sae * (pairs.d_sae - 1)
        if self.weighting == "uniform":
            yield self._term(pairs, pairs.uniform(), 1.0, float(n_pairs))
            return
        weight_sum = pairs.weight_sum()
        if not self.floor:
            yield self._term(pairs, pairs.weighted(), 1.0, weight_sum)
            return
        mixed = (weight_sum > 0) + self.floor
        yield self._term(pairs, pairs.weighted(), 1 / weight_sum.clamp(min=EPSILON), mixed)
        yield self._term(pairs, pairs.uniform(), self.floor / n_pairs, mixed)

    def _term(
        self,
        pairs: PairSums,
        counted: tuple[WithGradient, float],
        share: Tensor | float,
        weight_sum: Tensor | float,
    ) -> Term:
        """A sum over pairs with all that it is multiplied by.

        Args:
            counted: the sum, and the factor that makes it one over ordered pairs.
            share: the part of the weights that it carries.
            weight_sum: Σ_{i≠j} of all weights.
        """
        function, factor = counted
        reduction = reduction_factor(self.reduction, weight_sum, pairs.d_sae)
        return Term(function, self.ortho_weight * factor * share * reduction, pairs.x)
