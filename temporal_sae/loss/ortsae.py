"""OrtSAE's penalty: within random chunks of latents, every latent and its nearest neighbour."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.errors import InvalidOption, check_int, check_number
from temporal_sae.kernels import overlap
from temporal_sae.latents import Latents
from temporal_sae.loss.overlap import (
    Into,
    Overlap,
    Scale,
    add_rows,
    add_through_norms,
    differentiable,
    planned_for_rows,
    row_blocks,
    unit_rows_and_norms,
)
from temporal_sae.loss.pairs import PairWeights, check_decoder, permutation
from temporal_sae.machine import Planned
from temporal_sae.registry import component

CHUNK_OF_THE_PAPER = 8192


@component("loss")
class ChunkedOrthogonalityLoss:
    """(1/K) Σ_chunks (1/n) Σ_{i in chunk} (max_{j≠i in chunk} cos(d_i, d_j))², over decoder rows d.

    The penalty of OrtSAE (Korznikov et al. 2025, arXiv 2509.22033, equations 3 and 4): a number in
    [0, 1] that co-activation has no part in. The largest cosine is taken with its sign, so that
    opposite rows count only where all others are opposite too. The K chunks are as equal as F
    allows, and drawn anew whenever the tracker has seen tokens.

    Args:
        ortho_weight: λ2, the paper's γ. With 0 nothing is computed at all.
        n_chunks: K; null takes the paper's, chunks of up to 8192 latents. The cost falls with K.
        seed: chooses the chunks, together with the number of tokens seen.

    Raises:
        InvalidOption: an option is out of range.
    """

    through_latents = False
    needs_tracker = False

    def __init__(
        self, ortho_weight: float = 1.0, n_chunks: int | None = None, seed: int = 0
    ) -> None:
        self.ortho_weight = check_number("ortho_weight", ortho_weight)
        self.n_chunks = None if n_chunks is None else check_int("n_chunks", n_chunks, 1)
        self.seed = check_int("seed", seed, 0)

    def planned_bytes(self, n_latents: int, d_in: int) -> dict[str, Planned]:
        """Return a gradient of the decoder, and the pairs that are looked at together."""
        return planned_for_rows(n_latents, d_in)

    def check_tracker(self, tracker: PairWeights) -> None:
        """Any tracker will do; raises InvalidOption where a chunk would hold a latent alone."""
        most = max(1, tracker.n_latents // 2)
        if self.n_chunks is not None and self.n_chunks > most:
            allowed = f"at most {most}, two latents a chunk, with {tracker.n_latents} latents"
            raise InvalidOption("n_chunks", self.n_chunks, allowed)

    def __call__(
        self, W_dec: Float[Tensor, "F d_in"], tracker: PairWeights, latents: Latents | None = None
    ) -> Float[Tensor, ""]:
        """λ2 times the penalty.

        Args:
            W_dec: decoder rows.
            tracker: gives the number of tokens seen; `NoTracker` will do.
            latents: of no use here.

        Raises:
            ValueError: W_dec does not fit the tracker, or a row is not finite (which is looked at
                on the CPU only, since elsewhere it would wait for the device).
            InvalidOption: there are too few latents for the chunks.
        """
        function = self._function(W_dec, tracker)
        if function is None:
            return W_dec.new_zeros(())
        return self.ortho_weight * differentiable(function, W_dec)

    @torch.no_grad()
    def add_gradient(
        self, W_dec: Float[Tensor, "F d_in"], tracker: PairWeights, into: Into
    ) -> Float[Tensor, ""]:
        """Return the same number, with its gradient added to `into`: one pass, no autograd."""
        function = self._function(W_dec, tracker)
        if function is None:
            return W_dec.new_zeros(())
        return self.ortho_weight * function(W_dec.detach(), into, self.ortho_weight)

    def _function(self, W_dec: Tensor, tracker: PairWeights) -> Overlap | None:
        """Return the penalty without its weight, a function of the decoder; None if that is 0."""
        self.check_tracker(tracker)
        if self.ortho_weight == 0:
            return None
        check_decoder(W_dec, tracker.n_latents)
        chunks = self._chunks(W_dec.shape[0], tracker.tokens_seen, W_dec.device)
        return lambda x, into, scale: mean_over_chunks(x, chunks, into, scale)

    def _chunks(
        self, n_latents: int, tokens_seen: int, device: torch.device
    ) -> Sequence[Int[Tensor, " n"]]:
        n_chunks = self.n_chunks or math.ceil(n_latents / CHUNK_OF_THE_PAPER)
        return permutation(n_latents, self.seed, tokens_seen, device).tensor_split(n_chunks)


def mean_over_chunks(
    W_dec: Float[Tensor, "F d_in"],
    chunks: Sequence[Int[Tensor, " n"]],
    into: Into | None = None,
    scale: Scale = 1.0,
) -> Float[Tensor, ""]:
    """Return the mean over chunks of the mean over a chunk's rows of their largest cosine, squared.

    Args:
        chunks: rows of the decoder, each in one chunk; a row alone in its chunk counts as 0.
        into: given, scale times the gradient is added to it.
    """
    total = W_dec.new_zeros(())
    for rows in chunks:
        if len(rows) < 2:
            continue
        share = 1 / (len(chunks) * len(rows))
        N, norms = unit_rows_and_norms(W_dec[rows])
        largest, neighbour = nearest(N)
        total += share * largest.square().sum()
        if into is not None:
            piece, gradient = torch.zeros_like(N), pull(N, largest, neighbour)
            add_through_norms(piece, gradient, N, norms, share * scale)
            add_rows(into, rows, piece)
    return total


def nearest(N: Float[Tensor, "n d_in"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Return the largest cosine of each unit row with another, and which, in blocks of rows."""
    largest = N.new_full(N.shape[:1], -torch.inf)
    neighbour = torch.zeros_like(largest, dtype=torch.int64)
    for lo, hi in row_blocks(N):
        cosine = N[lo:hi] @ N[lo:].T  # of a pair in two blocks once: it serves both rows
        cosine.diagonal().fill_(-torch.inf)
        for part, dim in ((slice(lo, hi), 1), (slice(lo, None), 0)):
            value, place = cosine.max(dim)
            closer = value > largest[part]
            largest[part] = torch.where(closer, value, largest[part])
            neighbour[part] = torch.where(closer, place + lo, neighbour[part])
    return largest, neighbour


def pull(
    N: Float[Tensor, "n d_in"], largest: Float[Tensor, " n"], neighbour: Int[Tensor, " n"]
) -> Float[Tensor, "n d_in"]:
    """Return the gradient of Σ_i m_i² by the unit rows, m_i being the largest cosine, with row j.

    It acts on both: 2 m_i n_j at i, 2 m_i n_i at j.
    """
    slope = 2 * largest[:, None]
    gradient = N[neighbour].mul_(slope)
    overlap.add_rows(gradient, neighbour, slope * N)
    return gradient
