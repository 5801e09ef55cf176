"""Σ w g over pairs, by whichever way is allowed and cheapest."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.latents import Latents
from temporal_sae.loss.pairs import PairWeights, frame_potential
from temporal_sae.loss.products import ActivationOverlap, BlockOverlap, TokenOverlap, WeightRows

EXACT_UP_TO = 1024
SAMPLE_ROWS = 512


class Options(Protocol):
    """The side of `OrthogonalityLoss` that settles how pairs are summed."""

    penalty: str
    gram: str
    weighting: str
    estimator: str
    sample_tokens: int
    seed: int


class PairSums:
    """The sums of one call of the penalty, over ordered pairs i ≠ j.

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
        self.latents = latents
        if options.gram == "activations" and latents is None:
            raise ValueError("latents: needed with gram='activations'")

    def weight_sum(self) -> Float[Tensor, ""]:
        """Σ_{i≠j} w, exact."""
        return self.tracker.weight_sum(self.options.weighting).to(self.W_dec.device)

    def weighted(self) -> Float[Tensor, ""]:
        """Σ_{i≠j} w g with the tracker's weights."""
        options = self.options
        if options.gram == "decoder" and self._by_tokens():
            tokens = self._draw() if self._samples() else self._all_tokens()
            return self._token_sum(tokens)

        def weight_rows(lo: int, hi: int) -> Tensor:
            return self.tracker.weight_rows(lo, hi, options.weighting)

        return 2 * self._row_sum(weight_rows)

    def uniform(self) -> Float[Tensor, ""]:
        """Σ_{i≠j} g with every pair alike."""
        if self.options.gram == "decoder":
            if self._samples_rows():
                return self._sampled_rows_sum()
            if self.options.penalty == "square":
                return frame_potential(self.W_dec)

        def ones(lo: int, hi: int) -> Tensor:
            return torch.ones(hi - lo, self.d_sae, device=self.W_dec.device).triu_(lo + 1)

        return 2 * self._row_sum(ones)

    def _samples(self) -> bool:
        """Whether to look at some tokens only: as asked, or with `auto` where that is cheaper."""
        if self.options.estimator != "auto":
            return self.options.estimator == "sampled"
        return self.d_sae > EXACT_UP_TO

    def _by_tokens(self) -> bool:
        """Whether to walk the pairs of tokens: where allowed, if asked or fewer than all pairs."""
        window = self.tracker.last_window
        if self.options.weighting == "average" or not self.tracker.weights_follow_window:
            return False
        assert window is not None
        if self.options.estimator == "sampled":
            return True
        n_tokens = min(self.options.sample_tokens, len(window)) if self._samples() else len(window)
        return 2 * n_tokens * window.shape[1] ** 2 < self.d_sae**2

    def _all_tokens(self) -> Int[Tensor, " W"]:
        window = self.tracker.last_window
        assert window is not None
        return torch.arange(len(window), device=window.device)

    def _draw(self) -> Int[Tensor, " M"]:
        """M tokens of the window without replacement."""
        window = self.tracker.last_window
        assert window is not None
        return self._permutation(len(window), window.device)[: self.options.sample_tokens]

    def _permutation(self, n: int, device: torch.device) -> Tensor:
        """A function of the seed and the tokens seen, so that a resumed run draws the same."""
        generator = torch.Generator(device)
        generator.manual_seed(self.options.seed * 1_000_003 + self.tracker.tokens_seen)
        return torch.randperm(n, generator=generator, device=device)

    def _token_sum(self, tokens: Int[Tensor, " M"]) -> Tensor:
        """Σ_{i≠j} c r g is the mean over the window's tokens of Σ r g over a token's pairs."""
        window = self.tracker.last_window
        assert window is not None

        def weights(part: slice) -> Tensor:
            return self.tracker.token_weights(tokens[part], self.options.weighting)

        rows = window[tokens].to(self.W_dec.device)
        total: Tensor = TokenOverlap.apply(self.W_dec, rows, weights, self.options.penalty)
        return total / len(tokens)

    def _row_sum(self, weight_rows: WeightRows) -> Tensor:
        """Σ_{i<j} in blocks of rows."""
        total: Tensor
        if self.options.gram == "decoder":
            total = BlockOverlap.apply(self.W_dec, weight_rows, self.options.penalty)
            return total
        assert self.latents is not None
        rows, values = sorted_latents(self.latents, self.d_sae)
        total = ActivationOverlap.apply(values, rows, weight_rows, self.options.penalty, self.d_sae)
        return total

    def _samples_rows(self) -> bool:
        return self._samples() and self.d_sae > SAMPLE_ROWS

    def _sampled_rows_sum(self) -> Tensor:
        """The overlaps of some latents chosen at random, for those of all."""
        rows = self._permutation(self.d_sae, self.W_dec.device)[:SAMPLE_ROWS]
        ones = 1 - torch.eye(len(rows), device=rows.device)
        total: Tensor = TokenOverlap.apply(
            self.W_dec, rows[None], lambda part: ones[None], self.options.penalty
        )
        return total * (self.d_sae * (self.d_sae - 1) / (len(rows) * (len(rows) - 1)))


def sorted_latents(latents: Latents, d_sae: int) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Active latents of each token ascending, -1 after them, and their values, 0 there."""
    active = latents.values > 0
    filled = torch.where(active & (latents.indices >= 0), latents.indices, d_sae)
    filled, order = filled.sort(-1)
    values = latents.values.gather(1, order) * (filled < d_sae)
    return torch.where(filled < d_sae, filled, -1).int(), values
