"""The orthogonality penalty λ2 · Σ w_ij g_ij / Σ w_ij on pairs of latents that fire together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.errors import InvalidOption, check_bool, check_choice, check_int, check_number
from temporal_sae.kernels.overlap import EPSILON
from temporal_sae.latents import Latents
from temporal_sae.loss.overlap import (
    Overlap,
    activation_overlap,
    block_overlap,
    differentiable,
    frame_potential,
    overlap_of_rows,
    planned_for_rows,
    token_overlap,
)
from temporal_sae.loss.pairs import (
    PENALTIES,
    REDUCTIONS,
    PairWeights,
    check_decoder,
    inverse,
    permutation,
    reduction_factor,
    relabelled,
    relabelling,
    sorted_latents,
)
from temporal_sae.machine import Planned
from temporal_sae.registry import component
from temporal_sae.tracker.weightings import find_weighting

CHEAP_PAIRS = 2**16  # a few ms on one core, as the exact sum over 256 latents takes
UNIFORM_EXACT_UP_TO = 1024  # latents
SAMPLE_ROWS = 512
MANY_LATENTS = 200  # of a token


class Sum(NamedTuple):
    """A sum over pairs as a function of the decoder or of the latents' values.

    `factor` times what `overlap` returns is the sum over ordered pairs i ≠ j.
    """

    overlap: Overlap
    factor: float


class Term(NamedTuple):
    """coefficient · overlap(x), where x is the decoder or the latents' values."""

    overlap: Overlap
    coefficient: Tensor | float
    x: Tensor


class Step(NamedTuple):
    """Arguments of one call of the penalty.

    `x` is the decoder, or with `gram=activations` the values beside the sorted latents in `rows`.
    `order` is the permutation π of `permuted`.
    """

    W_dec: Float[Tensor, "F d_in"]
    tracker: PairWeights
    x: Tensor
    rows: Int[Tensor, "B K"] | None
    order: Int[Tensor, " F"] | None

    @property
    def d_sae(self) -> int:
        return self.W_dec.shape[0]


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
        weighting: the function of c and c̄ that weighs a pair, see `tracker.weightings`; `uniform`
            weighs every pair alike, without a tracker: the control for all others.
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
        sample_tokens: M, tokens per step that `sampled` looks at; None for 16, and 8 where a token
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
        self.weighting, self._weighting = weighting, find_weighting(weighting)
        self.floor = check_number("floor", floor)
        self.estimator = check_choice("estimator", estimator, ("auto", "exact", "sampled"))
        self.sample_tokens = (
            None if sample_tokens is None else check_int("sample_tokens", sample_tokens, 1)
        )
        self.seed = check_int("seed", seed, 0)
        self.permuted = check_bool("permuted", permuted)
        self.through_latents = gram == "activations"
        self.needs_tracker = self._weighting.needs_tracker
        if estimator == "sampled" and not self._can_sample():
            allowed = f"exact or auto with gram={gram} and weighting={weighting}"
            raise InvalidOption("estimator", estimator, allowed)
        if permuted and not self.needs_tracker:
            raise InvalidOption("permuted", permuted, "false with weighting=uniform: all are alike")

    def _can_sample(self) -> bool:
        """Return whether only the window's own pairs carry a weight, which a sample looks at."""
        relative = self._weighting.relative or not self.needs_tracker
        return self.gram == "decoder" and relative

    def planned_bytes(self, n_latents: int, d_in: int) -> dict[str, Planned]:
        """Return a gradient of the decoder, and the pairs that are looked at together."""
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
            value = value + term.coefficient * differentiable(term.overlap, term.x)
        return value

    @torch.no_grad()
    def add_gradient(
        self, W_dec: Float[Tensor, "F d_in"], tracker: PairWeights, into: Float[Tensor, "F d_in"]
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
        """Yield the summands of the penalty; none before the first window."""
        self.check_tracker(tracker)
        ready = tracker.windows_closed > 0 or not self.needs_tracker
        if self.ortho_weight == 0 or not ready:
            return
        check_decoder(W_dec, tracker.n_latents)
        step = self._step(W_dec, tracker, latents)
        n_pairs = step.d_sae * (step.d_sae - 1)
        if not self.needs_tracker:
            yield self._term(step, self._uniform(step), 1.0, float(n_pairs))
            return
        weight_sum = tracker.weight_sum(self.weighting).to(W_dec.device)
        if not self.floor:
            yield self._term(step, self._weighted(step), 1.0, weight_sum)
            return
        mixed = (weight_sum > 0) + self.floor
        yield self._term(step, self._weighted(step), 1 / weight_sum.clamp(min=EPSILON), mixed)
        yield self._term(step, self._uniform(step), self.floor / n_pairs, mixed)

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
        order = relabelling(len(W_dec), self.seed, W_dec.device) if self.permuted else None
        if self.gram == "decoder":
            return Step(W_dec, tracker, W_dec, None, order)
        if latents is None:
            raise ValueError("latents: needed with gram='activations'")
        if order is not None:  # so that the weights' rows and columns are in place
            latents = relabelled(latents, inverse(order))
        rows, values = sorted_latents(latents, len(W_dec))
        return Step(W_dec, tracker, values, rows, order)

    def _weighted(self, step: Step) -> Sum:
        """Return Σ_{i≠j} w g with the tracker's weights, by the cheapest way that is allowed."""
        if self.gram == "decoder" and self._walks_tokens(step):
            return self._token_sum(step)
        weight_rows = partial(step.tracker.weight_rows, weighting=self.weighting)
        pairs = self._row_sum(step, weight_rows)
        if step.order is None or self.gram == "activations":
            return pairs
        return Sum(partial(overlap_of_rows, overlap=pairs.overlap, order=step.order), pairs.factor)

    def _uniform(self, step: Step) -> Sum:
        """Return Σ_{i≠j} g, every pair alike."""
        if self.gram == "decoder":
            asked = self.estimator == "sampled" and step.d_sae > SAMPLE_ROWS
            too_many = self.estimator == "auto" and step.d_sae > UNIFORM_EXACT_UP_TO
            if asked or too_many:
                return self._sampled_rows_sum(step)
            if self.penalty == "square":
                return Sum(frame_potential, 1.0)

        def ones(lo: int, hi: int) -> Tensor:
            return torch.ones(hi - lo, step.d_sae, device=step.W_dec.device).triu_(lo + 1)

        return self._row_sum(step, ones)

    def _samples(self, window: Int[Tensor, "W K"], d_sae: int) -> bool:
        """Return True where some tokens stand for the window: as asked, or by cost with `auto`.

        The cost is the number of pairs: all F² of a matrix, or twice those of the tokens, which
        are looked up one by one. `auto` is exact where that is cheap, or no dearer than sampling.
        """
        if self.estimator != "auto":
            return self.estimator == "sampled"
        exact = min(d_sae**2, token_pairs(len(window), window))
        sampled = token_pairs(self.sample_size(window), window)
        return exact > max(CHEAP_PAIRS, sampled)

    def _walks_tokens(self, step: Step) -> bool:
        """Return True where the pairs of tokens are walked: if allowed, and asked or the fewer."""
        window = step.tracker.last_window
        if not (self._weighting.relative and step.tracker.weights_follow_window):
            return False
        assert window is not None
        fewer = token_pairs(len(window), window) < step.d_sae**2
        return self._samples(window, step.d_sae) or fewer

    def sample_size(self, window: Int[Tensor, "W K"]) -> int:
        """Return M: as asked, or 16, and 8 where a token's pairs are so many that 16 cost much."""
        if self.sample_tokens is not None:
            return self.sample_tokens
        return 16 if window.shape[1] <= MANY_LATENTS else 8

    def _token_sum(self, step: Step) -> Sum:
        """Return the mean over tokens of Σ (w / c) g over a token's pairs, which is Σ_{i≠j} w g."""
        tracker, window = step.tracker, step.tracker.last_window
        assert window is not None
        tokens = torch.arange(len(window), device=window.device)
        if self._samples(window, step.d_sae):
            drawn = permutation(len(window), self.seed, tracker.tokens_seen, window.device)
            tokens = drawn[: self.sample_size(window)]
        rows = window[tokens].to(step.W_dec.device)
        if step.order is not None:
            rows = torch.where(rows >= 0, step.order[rows.clamp(min=0)], -1)

        def token_weights(part: slice) -> Tensor:
            return tracker.relative_weights(tokens[part], self.weighting)

        overlap = partial(
            token_overlap, rows=rows, token_weights=token_weights, penalty=self.penalty
        )
        return Sum(overlap, 1 / len(tokens))

    def _row_sum(self, step: Step, weight_rows: Callable[[int, int], Tensor]) -> Sum:
        """Return the sum over i < j, in blocks of rows."""
        if step.rows is None:
            overlap = partial(block_overlap, weight_rows=weight_rows, penalty=self.penalty)
            return Sum(overlap, 2.0)
        overlap = partial(
            activation_overlap,
            rows=step.rows,
            weight_rows=weight_rows,
            penalty=self.penalty,
            d_sae=step.d_sae,
        )
        return Sum(overlap, 2.0)

    def _sampled_rows_sum(self, step: Step) -> Sum:
        """Return the overlaps of some latents chosen at random, scaled up to those of all."""
        d_sae, device = step.d_sae, step.W_dec.device
        drawn = permutation(d_sae, self.seed, step.tracker.tokens_seen, device)
        ones = 1 - torch.eye(SAMPLE_ROWS, device=device)[None]
        overlap = partial(
            token_overlap,
            rows=drawn[None, :SAMPLE_ROWS],
            token_weights=lambda part: ones,
            penalty=self.penalty,
        )
        return Sum(overlap, d_sae * (d_sae - 1) / (SAMPLE_ROWS * (SAMPLE_ROWS - 1)))


def token_pairs(n_tokens: int, window: Int[Tensor, "W K"]) -> int:
    """Return the cost of the pairs of some of a window's tokens, in pairs of a whole matrix."""
    return 2 * min(n_tokens, len(window)) * window.shape[1] ** 2
