"""The orthogonality penalty λ2 · Σ w_ij g_ij / Σ w_ij on pairs of latents that fire together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.errors import InvalidOption, check_choice, check_int, check_number
from temporal_sae.kernels.overlap import EPSILON
from temporal_sae.latents import Latents
from temporal_sae.loss.overlap import Into, Overlap, differentiable, planned_for_rows
from temporal_sae.loss.pairs import (
    PENALTIES,
    REDUCTIONS,
    PairWeights,
    check_decoder,
    reduction_factor,
    sorted_latents,
)
from temporal_sae.loss.relabelling import Relabelling, inverse, relabelled
from temporal_sae.loss.sums import PairSums, Step, Sum
from temporal_sae.machine import Planned
from temporal_sae.registry import component
from temporal_sae.tracker.weightings import check_totals, find_weighting


class Term(NamedTuple):
    """coefficient · overlap(x), where x is the decoder or the latents' values."""

    overlap: Overlap
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
        weighting: the function of c, c̄ and totals that weighs a pair, see `tracker.weightings`;
            `uniform` weighs every pair alike, without a tracker: the control for all others. Those
            from totals (`rates`, `excess`, `stable`, `bursty`) take `tracker.totals_from`; the
            penalty is 0 until the totals hold a window, or two for the last two.
        permuted: the control for what co-activation does: the same weights on other pairs. With
            `true` a permutation π of the latents, fixed by `seed`, gives w_ij to the pair
            (π(i), π(j)), so that how large the weights are and how they hang together stay, and
            which latents they speak of does not. With `rates` π exchanges only latents that were
            about as frequent before `tracker.totals_from` (⌊log2 p⌋ is equal; those that were
            silent are alike), so that how often the latents of a pair are active stays, too. The
            penalty is 0 until then. The uniform part is the same either way.
        start_tokens: the penalty is 0 until the tracker has seen that many tokens, so that arms
            whose weights begin at different times can start together. A tracker that reads the
            stream in order is ahead of the training by the shuffle buffer.
        floor: u ≥ 0 mixes a uniform part in: w / Σ_{i≠j} w + u / (F (F - 1)).
        estimator: `exact` (every pair that carries weight: those of the window's tokens, or all
            pairs in blocks, whichever are fewer), `sampled` (the pairs of `sample_tokens` tokens
            of the last window, and for a uniform part or for `rates` those of 512 latents;
            unbiased, but for pairs that a weighting from totals knows and the window has not), or
            `auto`: exact where that is cheap (at most 2^16 pairs, as of 256 latents), and wherever
            sampling is not allowed or not cheaper; a uniform part and `rates` are exact up to 1024
            latents.
        sample_tokens: M, tokens per step that `sampled` looks at; None for 16, and 8 where a token
            has more than 200 latents.
        seed: chooses the sampled tokens, together with the number of tokens seen, and π.

    Raises:
        InvalidOption: an option, or a combination of them, is not allowed.
    """

    def __init__(
        self,
        ortho_weight: float = 1.0,
        penalty: str = "square",
        gram: str = "decoder",
        reduction: str = "weighted_mean",
        weighting: str = "co_activation",
        floor: float = 0.0,
        estimator: str = "auto",
        sample_tokens: int | None = None,
        seed: int = 0,
        permuted: bool | str = False,
        start_tokens: int = 0,
    ) -> None:
        self.ortho_weight = check_number("ortho_weight", ortho_weight)
        self.penalty = check_choice("penalty", penalty, PENALTIES)
        self.gram = check_choice("gram", gram, ("decoder", "activations"))
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.weighting, self._weighting = weighting, find_weighting(weighting)
        self.floor = check_number("floor", floor)
        self.seed = check_int("seed", seed, 0)
        self.start_tokens = check_int("start_tokens", start_tokens, 0)
        self._sums = PairSums(
            penalty,
            gram,
            weighting,
            self._weighting,
            estimator=check_choice("estimator", estimator, ("auto", "exact", "sampled")),
            sample_tokens=(
                None if sample_tokens is None else check_int("sample_tokens", sample_tokens, 1)
            ),
            seed=self.seed,
        )
        self.through_latents = gram == "activations"
        self.needs_tracker = self._weighting.needs_tracker
        if estimator == "sampled" and not self._sums.can_sample():
            allowed = f"exact or auto with gram={gram} and weighting={weighting}"
            raise InvalidOption("estimator", estimator, allowed)
        if not (isinstance(permuted, bool) or permuted == "rates"):
            raise InvalidOption("permuted", permuted, "false, true or rates")
        if permuted and not self.needs_tracker:
            raise InvalidOption("permuted", permuted, "false with weighting=uniform: all are alike")
        self._relabelling = Relabelling(permuted, self.seed)

    def planned_bytes(self, n_latents: int, d_in: int) -> dict[str, Planned]:
        """Return a gradient of the decoder, and the pairs that are looked at together."""
        return planned_for_rows(n_latents, d_in)

    def check_tracker(self, tracker: PairWeights) -> None:
        """Raise InvalidOption where this penalty cannot be computed with that tracker."""
        follows = tracker.weights_follow_window or not self.needs_tracker
        if self._sums.estimator == "sampled" and not follows:
            allowed = "exact or auto with this tracker"
            raise InvalidOption("estimator", self._sums.estimator, allowed)
        check_totals(self.weighting, tracker.totals_from)
        if self._relabelling.permuted == "rates" and not tracker.totals_from:
            allowed = "used with tracker.totals_from=TOKENS above 0, before which rates are counted"
            raise InvalidOption("permuted", "rates", allowed)

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
            value = value + term.coefficient * differentiable(term.overlap, term.x)
        return value

    @torch.no_grad()
    def add_gradient(
        self, W_dec: Float[Tensor, "F d_in"], tracker: PairWeights, into: Into
    ) -> Float[Tensor, ""]:
        """Return the same number, with its gradient added to `into`: one pass, no autograd.

        For `gram=decoder`, and for training steps: nothing of the decoder's size is allocated when
        sampling.
        """
        value = W_dec.new_zeros(())
        for term in self._terms(W_dec, tracker, None):
            value += term.coefficient * term.overlap(W_dec.detach(), into, term.coefficient)
        return value

    def _terms(
        self, W_dec: Tensor, tracker: PairWeights, latents: Latents | None
    ) -> Iterator[Term]:
        """Yield the summands of the penalty; none before it is at work."""
        self.check_tracker(tracker)
        if self.ortho_weight == 0 or not self.is_at_work(tracker):
            return
        check_decoder(W_dec, tracker.n_latents)
        step = self._step(W_dec, tracker, latents)
        if not self.needs_tracker:
            uniform = self._sums.uniform(step)
            yield self._term(step, uniform, 1.0, uniform.weight_sum)
            return
        weighted = self._sums.weighted(step)
        weight_sum = torch.as_tensor(weighted.weight_sum)
        if not self.floor:
            yield self._term(step, weighted, 1.0, weight_sum)
            return
        mixed = (weight_sum > 0) + self.floor
        yield self._term(step, weighted, 1 / weight_sum.clamp(min=EPSILON), mixed)
        uniform = self._sums.uniform(step)
        yield self._term(step, uniform, self.floor / (step.d_sae * (step.d_sae - 1)), mixed)

    def is_at_work(self, tracker: PairWeights) -> bool:
        """Return True once there are weights, and as many tokens as the penalty waits for."""
        if tracker.tokens_seen < self.start_tokens or not self._relabelling.is_drawn(tracker):
            return False
        return not self.needs_tracker or tracker.has_weights(self.weighting)

    def begins_at(self, tracker: PairWeights) -> int:
        """Return the tokens that a tracker must have seen for the penalty to be at work."""
        tokens = [self.start_tokens]
        if self.needs_tracker:
            tokens.append(tracker.tokens_before_weights(self.weighting))
        if self._relabelling.permuted == "rates" and tracker.warmup is not None:
            tokens.append(tracker.tokens_before(tracker.warmup.n_windows))
        return max(tokens)

    def _term(
        self, step: Step, pairs: Sum, share: Tensor | float, weight_sum: Tensor | float
    ) -> Term:
        """Return a sum over pairs with all that it is multiplied by.

        Args:
            share: the part of the weights that it carries.
            weight_sum: Σ_{i≠j} of all weights.
        """
        reduction = reduction_factor(self.reduction, weight_sum, step.d_sae)
        return Term(pairs.overlap, self.ortho_weight * pairs.factor * share * reduction, step.x)

    def _step(self, W_dec: Tensor, tracker: PairWeights, latents: Latents | None) -> Step:
        order = self._relabelling.order(tracker, W_dec.device)
        if self.gram == "decoder":
            return Step(W_dec, tracker, W_dec, None, order)
        if latents is None:
            raise ValueError("latents: needed with gram='activations'")
        if order is not None:  # so that the weights' rows and columns are in place
            latents = relabelled(latents, inverse(order))
        rows, values = sorted_latents(latents, len(W_dec))
        return Step(W_dec, tracker, values, rows, order)
