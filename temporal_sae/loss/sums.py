"""Σ w g over pairs, by whichever way is allowed and cheapest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.latents import Latents
from temporal_sae.loss.pairs import PairWeights, inverse, permutation, relabelling
from temporal_sae.loss.products import (
    WithGradient,
    activation_overlap,
    block_overlap,
    frame_potential,
    of_rows,
    token_overlap,
)

CHEAP_PAIRS = 2**16  # a few ms on one core, as the exact sum over 256 latents takes
UNIFORM_EXACT_UP_TO = 1024  # latents
SAMPLE_ROWS = 512
MANY_LATENTS = 200  # of a token


class Options(Protocol):
    """The side of `OrthogonalityLoss` that settles how pairs are summed."""

    penalty: str
    gram: str
    weighting: str
    estimator: str
    sample_tokens: int | None
    seed: int
    permuted: bool


class PairSums:
    """The sums of one call of the penalty, over ordered pairs i ≠ j, as functions of the decoder.

    Each is a function (x, into, scale) as `products` describes; with `gram=activations` x is the
    latents' sorted values rather than the decoder.

    Args:
        options: the penalty's.
        W_dec: decoder rows.
        tracker: gives the weights.
        latents: the batch's latents, for `gram=activations`.
    """

    def __init__(
        self,
        options: Options,
        W_dec: Float[Tensor, "F d_in"],
        tracker: PairWeights,
        latents: Latents | None,
    ) -> None:
        self.options, self.W_dec, self.tracker = options, W_dec, tracker
        self.d_sae = W_dec.shape[0]
        self.x = W_dec
        self.order: Tensor | None = None
        if options.permuted:
            self.order = relabelling(self.d_sae, options.seed, W_dec.device)
        if options.gram == "activations":
            if latents is None:
                raise ValueError("latents: needed with gram='activations'")
            if self.order is not None:  # so that the weights' rows and columns are in place
                latents = relabelled(latents, inverse(self.order))
            self.rows, self.x = sorted_latents(latents, self.d_sae)

    def weight_sum(self) -> Float[Tensor, ""]:
        """Σ_{i≠j} w, exact."""
        return self.tracker.weight_sum(self.options.weighting).to(self.W_dec.device)

    def weighted(self) -> tuple[WithGradient, float]:
        """Σ_{i≠j} w g with the tracker's weights: a function, and what to multiply it by."""
        if self.options.gram == "decoder" and self._by_tokens():
            window = self.tracker.last_window
            assert window is not None
            tokens = self._draw() if self._samples(window) else self._all_tokens()
            return self._token_sum(tokens), 1 / len(tokens)

        def weight_rows(lo: int, hi: int) -> Tensor:
            return self.tracker.weight_rows(lo, hi, self.options.weighting)

        total = self._row_sum(weight_rows)
        if self.order is not None and self.options.gram == "decoder":
            total = of_rows(total, self.order)
        return total, 2.0

    def uniform(self) -> tuple[WithGradient, float]:
        """Σ_{i≠j} g with every pair alike."""
        if self.options.gram == "decoder":
            asked = self.options.estimator == "sampled" and self.d_sae > SAMPLE_ROWS
            too_many = self.options.estimator == "auto" and self.d_sae > UNIFORM_EXACT_UP_TO
            if asked or too_many:
                return self._sampled_rows_sum()
            if self.options.penalty == "square":
                return frame_potential, 1.0

        def ones(lo: int, hi: int) -> Tensor:
            return torch.ones(hi - lo, self.d_sae, device=self.W_dec.device).triu_(lo + 1)

        return self._row_sum(ones), 2.0

    def _samples(self, window: Int[Tensor, "W K"]) -> bool:
        """Return True where some tokens stand for the window: as asked, or by cost with `auto`.

        The cost is the number of pairs: all F² of a matrix, or twice those of the tokens, which
        are looked up one by one. `auto` is exact where that is cheap, or no dearer than sampling.
        """
        if self.options.estimator != "auto":
            return self.options.estimator == "sampled"
        exact = min(self.d_sae**2, token_pairs(len(window), window))
        sampled = token_pairs(sample_size(self.options, window), window)
        return exact > max(CHEAP_PAIRS, sampled)

    def _by_tokens(self) -> bool:
        """Return True where the pairs of tokens are walked: if allowed, and asked or the fewer."""
        window = self.tracker.last_window
        if self.options.weighting == "average" or not self.tracker.weights_follow_window:
            return False
        assert window is not None
        return self._samples(window) or token_pairs(len(window), window) < self.d_sae**2

    def _all_tokens(self) -> Int[Tensor, " W"]:
        window = self.tracker.last_window
        assert window is not None
        return torch.arange(len(window), device=window.device)

    def _draw(self) -> Int[Tensor, " M"]:
        """M tokens of the window without replacement."""
        window = self.tracker.last_window
        assert window is not None
        n_tokens = sample_size(self.options, window)
        return self._permutation(len(window), window.device)[:n_tokens]

    def _permutation(self, n: int, device: torch.device) -> Tensor:
        return permutation(n, self.options.seed, self.tracker.tokens_seen, device)

    def _token_sum(self, tokens: Int[Tensor, " M"]) -> WithGradient:
        """Σ_{i≠j} c r g is the mean over the window's tokens of Σ r g over a token's pairs."""
        window = self.tracker.last_window
        assert window is not None
        rows = window[tokens].to(self.W_dec.device)
        if self.order is not None:
            rows = torch.where(rows >= 0, self.order[rows.clamp(min=0)], -1)

        def weights(part: slice) -> Tensor:
            return self.tracker.token_weights(tokens[part], self.options.weighting)

        return lambda x, into, scale: token_overlap(
            x, rows, weights, self.options.penalty, into, scale
        )

    def _row_sum(self, weight_rows: Callable[[int, int], Tensor]) -> WithGradient:
        """Σ_{i<j} in blocks of rows."""
        penalty = self.options.penalty
        if self.options.gram == "decoder":
            return lambda x, into, scale: block_overlap(x, weight_rows, penalty, into, scale)
        return lambda x, into, scale: activation_overlap(
            x, self.rows, weight_rows, penalty, self.d_sae, into, scale
        )

    def _sampled_rows_sum(self) -> tuple[WithGradient, float]:
        """The overlaps of some latents chosen at random, for those of all."""
        rows = self._permutation(self.d_sae, self.W_dec.device)[None, :SAMPLE_ROWS]
        ones = 1 - torch.eye(SAMPLE_ROWS, device=rows.device)[None]
        share = self.d_sae * (self.d_sae - 1) / (SAMPLE_ROWS * (SAMPLE_ROWS - 1))
        return lambda x, into, scale: token_overlap(
            x, rows, lambda part: ones, self.options.penalty, into, scale
        ), share


def sample_size(options: Options, window: Int[Tensor, "W K"]) -> int:
    """M: as asked, or 16, and 8 where each token has so many pairs that 16 would cost too much."""
    if options.sample_tokens is not None:
        return options.sample_tokens
    return 16 if window.shape[1] <= MANY_LATENTS else 8


def token_pairs(n_tokens: int, window: Int[Tensor, "W K"]) -> int:
    """Return the cost of the pairs of some of a window's tokens, in pairs of a whole matrix."""
    return 2 * min(n_tokens, len(window)) * window.shape[1] ** 2


def relabelled(latents: Latents, names: Int[Tensor, " F"]) -> Latents:
    """The same values under other names, `names[i]` for latent i; empty slots stay -1."""
    indices = names[latents.indices.clamp(min=0).long()]
    return Latents(latents.values, torch.where(latents.indices >= 0, indices, -1))


def sorted_latents(latents: Latents, d_sae: int) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Active latents of each token ascending, -1 after them, and their values, 0 there."""
    active = latents.values > 0
    filled = torch.where(active & (latents.indices >= 0), latents.indices, d_sae)
    filled, order = filled.sort(-1)
    values = latents.values.gather(1, order) * (filled < d_sae)
    return torch.where(filled < d_sae, filled, -1).int(), values
