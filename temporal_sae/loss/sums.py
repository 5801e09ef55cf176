"""Sums over pairs of latents, each by the cheapest way that is allowed, and what divides them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.loss.overlap import (
    Overlap,
    activation_overlap,
    block_overlap,
    frame_potential,
    overlap_of_rows,
    token_overlap,
)
from temporal_sae.loss.pairs import PairWeights, draw_seed, permutation
from temporal_sae.tracker.weightings import Weighting

CHEAP_PAIRS = 2**16  # a few ms on one core, as the exact sum over 256 latents takes
UNIFORM_EXACT_UP_TO = 1024  # latents
SAMPLE_ROWS = 512
MANY_LATENTS = 200  # of a token


class Sum(NamedTuple):
    """A sum over pairs as a function of the decoder or of the latents' values.

    `factor` times what `overlap` returns is the sum over ordered pairs i ≠ j of w g, and
    `weight_sum` what that is divided by, Σ w if the weighting says nothing else.
    """

    overlap: Overlap
    factor: Tensor | float
    weight_sum: Tensor | float


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

    def permuted(self, overlap: Overlap) -> Overlap:
        """Return an overlap whose weights speak of the latents by their names before π."""
        if self.order is None or self.rows is not None:  # those of activations have been renamed
            return overlap
        return partial(overlap_of_rows, overlap=overlap, order=self.order)


@dataclass(frozen=True)
class PairSums:
    """Builds the sums of a penalty.

    Args: as of `OrthogonalityLoss`; `name` is that of the weighting.
    """

    penalty: str
    gram: str
    name: str
    weighting: Weighting
    estimator: str
    sample_tokens: int | None
    seed: int

    def can_sample(self) -> bool:
        """Return True where a sample of tokens or of latents can stand for all pairs."""
        found = self.weighting
        by_latent = not found.needs_tracker or found.factor is not None
        return self.gram == "decoder" and (found.relative or by_latent)

    def weighted(self, step: Step) -> Sum:
        """Return Σ_{i≠j} w g with the tracker's weights."""
        tracker = step.tracker
        if self.gram == "decoder":
            if self._walks_tokens(step):
                return self._token_sum(step)
            factors = tracker.factors(self.name)
            if factors is not None and (self._samples_latents(step) or self.penalty == "square"):
                return self._sum_by_factors(step, factors.to(step.W_dec.device))
        weight_rows = partial(tracker.weight_rows, weighting=self.name)
        pairs = self._row_sum(step, weight_rows, self._weight_sum(step))
        return pairs._replace(overlap=step.permuted(pairs.overlap))

    def uniform(self, step: Step) -> Sum:
        """Return Σ_{i≠j} g, every pair alike."""
        n_pairs = float(step.d_sae * (step.d_sae - 1))
        if self.gram == "decoder":
            if self._samples_latents(step):
                drawn = permutation(
                    step.d_sae, self.seed, step.tracker.tokens_seen, step.W_dec.device
                )
                return self._latents_sum(drawn[:SAMPLE_ROWS], n_pairs, n_pairs)
            if self.penalty == "square":
                return Sum(frame_potential, 1.0, n_pairs)

        def ones(lo: int, hi: int) -> Tensor:
            return torch.ones(hi - lo, step.d_sae, device=step.W_dec.device).triu_(lo + 1)

        return self._row_sum(step, ones, n_pairs)

    def _weight_sum(self, step: Step, of_window: bool = False) -> Tensor:
        return step.tracker.weight_sum(self.name, of_window).to(step.W_dec.device)

    def _sum_by_factors(self, step: Step, factors: Float[Tensor, " F"]) -> Sum:
        """Return the sum with weights u_i u_j, which takes no pairs."""
        weight_sum = self._weight_sum(step)
        if not self._samples_latents(step):
            overlap = partial(frame_potential, factors=factors)
            return Sum(step.permuted(overlap), 1.0, weight_sum)
        generator = torch.Generator(factors.device)
        generator.manual_seed(draw_seed(self.seed, step.tracker.tokens_seen))
        chances = factors + torch.finfo(factors.dtype).tiny  # one has to be above 0
        drawn = torch.multinomial(chances, SAMPLE_ROWS, replacement=True, generator=generator)
        drawn = drawn if step.order is None else step.order[drawn]
        return self._latents_sum(drawn, factors.sum().square(), weight_sum)

    def _samples_latents(self, step: Step) -> bool:
        """Return True where some latents stand for all, with weights that take no pairs."""
        asked = self.estimator == "sampled" and step.d_sae > SAMPLE_ROWS
        too_many = self.estimator == "auto" and step.d_sae > UNIFORM_EXACT_UP_TO
        return asked or too_many

    def _samples(self, window: Int[Tensor, "W K"], d_sae: int) -> bool:
        """Return True where some tokens stand for the window: as asked, or by cost with `auto`.

        The cost is the number of pairs: all F² of a matrix, or twice those of the tokens, which
        are looked up one by one. `auto` is exact where that is cheap, or no dearer than sampling.
        """
        if self.estimator != "auto":
            return self.estimator == "sampled"
        exact = d_sae**2
        if not self.weighting.totals_windows:
            exact = min(exact, token_pairs(len(window), window))
        sampled = token_pairs(self.sample_size(window), window)
        return exact > max(CHEAP_PAIRS, sampled)

    def _walks_tokens(self, step: Step) -> bool:
        """Return True where the pairs of tokens are walked: if allowed, and asked or the fewer.

        All tokens of a window are no exact sum with a weighting from totals, which has pairs that
        were not in it.
        """
        window = step.tracker.last_window
        if not (self.weighting.relative and step.tracker.weights_follow_window):
            return False
        assert window is not None
        fewer = token_pairs(len(window), window) < step.d_sae**2
        return self._samples(window, step.d_sae) or (fewer and not self.weighting.totals_windows)

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
            return tracker.relative_weights(tokens[part], self.name)

        overlap = partial(
            token_overlap, rows=rows, token_weights=token_weights, penalty=self.penalty
        )
        return Sum(overlap, 1 / len(tokens), self._weight_sum(step, of_window=True))

    def _row_sum(
        self,
        step: Step,
        weight_rows: Callable[[int, int], Tensor],
        weight_sum: Tensor | float,
    ) -> Sum:
        """Return the sum over i < j, in blocks of rows."""
        if step.rows is None:
            overlap = partial(block_overlap, weight_rows=weight_rows, penalty=self.penalty)
            return Sum(overlap, 2.0, weight_sum)
        overlap = partial(
            activation_overlap,
            rows=step.rows,
            weight_rows=weight_rows,
            penalty=self.penalty,
            d_sae=step.d_sae,
        )
        return Sum(overlap, 2.0, weight_sum)

    def _latents_sum(
        self, drawn: Int[Tensor, " M"], of_pairs: Tensor | float, weight_sum: Tensor | float
    ) -> Sum:
        """Return the overlaps of some latents chosen at random, scaled up to those of all.

        Args:
            drawn: the latents; one that comes twice is no pair with itself.
            of_pairs: Σ w of the pairs that may be drawn, those among them.
        """
        distinct = (drawn[:, None] != drawn).float()[None]
        overlap = partial(
            token_overlap,
            rows=drawn[None],
            token_weights=lambda part: distinct,
            penalty=self.penalty,
        )
        return Sum(overlap, of_pairs / (len(drawn) * (len(drawn) - 1)), weight_sum)


def token_pairs(n_tokens: int, window: Int[Tensor, "W K"]) -> int:
    """Return the cost of the pairs of some of a window's tokens, in pairs of a whole matrix."""
    return 2 * min(n_tokens, len(window)) * window.shape[1] ** 2
