"""C²R's penalty: every latent's nearest decoder row, weighted by how active the two latents are."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from temporal_sae.errors import check_int, check_number
from temporal_sae.kernels.overlap import EPSILON
from temporal_sae.latents import Latents
from temporal_sae.loss.ortsae import CHUNK_OF_THE_PAPER, nearest
from temporal_sae.loss.overlap import BYTES_AT_ONCE, FLOAT, PAIR_TEMPORARIES, SMALLER
from temporal_sae.loss.pairs import PairWeights, check_decoder, permutation, unit_rows
from temporal_sae.machine import Planned
from temporal_sae.registry import component

# Unit rows, those of the neighbours, their product, and the gradients of these.
COPIES_OF_THE_DECODER = 6


@component("loss")
class ConsistencyLoss:
    """(1/F) Σ_i (‖f_i‖ + ‖f_n(i)‖)^α max(0, cos(d_i, d_n(i)))², n(i) the nearest decoder row of i.

    Cross-sample consistency regularisation (Jin et al., ICML 2026, arXiv 2606.30609), as the
    released code computes it (github.com/hr-jin/Cross-sample-Consistency-Regularization,
    `compute_c2r_loss`). ‖f_i‖ is the root of a latent's summed squares over the tokens of a batch,
    so that a pair weighs by how active each of its latents is: the paper and the code's README
    speak of co-activation, but no two latents need to share a token. Neighbours are looked for in
    random chunks of up to 8192 latents, as equal as F allows and drawn anew in every step. The
    gradient goes by the decoder and by the latents' values.

    The released weight, 5, belongs to activations of E‖x‖² = 1 (`activations.normalize`), a
    reconstruction of `sse`, 2048 tokens a step and 65536 latents: ‖f_i‖ grows with the root of the
    tokens, and falls as a latent's share of them does.

    Args:
        ortho_weight: λ2, the code's `lambda_c2r`. With 0 nothing is computed at all.
        exponent: α, the code's `c2r_alpha`.
        interval: the penalty acts in every so-many-th step, and counts so many times there.
        seed: chooses the chunks, together with the number of tokens seen.

    Raises:
        InvalidOption: an option is out of range.
    """

    through_latents = True
    needs_tracker = False

    def __init__(
        self, ortho_weight: float = 5.0, exponent: float = 1.0, interval: int = 5, seed: int = 0
    ) -> None:
        self.ortho_weight = check_number("ortho_weight", ortho_weight)
        self.exponent = check_number("exponent", exponent)
        self.interval = check_int("interval", interval, 1)
        self.seed = check_int("seed", seed, 0)

    def planned_bytes(self, n_latents: int, d_in: int) -> dict[str, Planned]:
        """Return copies of the decoder, and the pairs that are looked at together."""
        rows = COPIES_OF_THE_DECODER * n_latents * d_in * FLOAT
        return {"penalty": Planned(rows + PAIR_TEMPORARIES * BYTES_AT_ONCE, SMALLER)}

    def check_tracker(self, tracker: PairWeights) -> None:
        """Any tracker will do."""

    def __call__(
        self, W_dec: Float[Tensor, "F d_in"], tracker: PairWeights, latents: Latents | None = None
    ) -> Float[Tensor, ""]:
        """λ2 times the interval times the penalty.

        Args:
            W_dec: decoder rows.
            tracker: gives the number of tokens seen; `NoTracker` will do.
            latents: of the batch.

        Raises:
            ValueError: W_dec does not fit the tracker, or there are no latents.
            NotFinite: a row is not finite (looked at on the CPU only: elsewhere it would wait for
                the device).
        """
        if self.ortho_weight == 0 or W_dec.shape[0] < 2:
            return W_dec.new_zeros(())
        if latents is None:
            raise ValueError("the consistency penalty needs the latents of the batch")
        check_decoder(W_dec, tracker.n_latents)
        N = unit_rows(W_dec)
        neighbour = self._neighbours(N.detach(), tracker.tokens_seen)
        cosine = (N * embedding(neighbour, N)).sum(-1).clamp(min=0)
        norms = batch_norms(latents, W_dec.shape[0])
        weight = norms + embedding(neighbour, norms[:, None])[:, 0]
        if self.exponent != 1:
            weight = weight.clamp(min=EPSILON) ** self.exponent  # whose slope is infinite at 0
        return self.ortho_weight * self.interval * (weight * cosine.square()).mean()

    def _neighbours(self, N: Float[Tensor, "F d_in"], tokens_seen: int) -> Int[Tensor, " F"]:
        """Return the row of the largest cosine with each row, within its chunk."""
        order = permutation(N.shape[0], self.seed, tokens_seen, N.device)
        neighbour = torch.empty_like(order)
        for rows in order.tensor_split(math.ceil(N.shape[0] / CHUNK_OF_THE_PAPER)):
            neighbour[rows] = rows[nearest(N[rows])[1]]
        return neighbour


def batch_norms(latents: Latents, d_sae: int) -> Float[Tensor, " F"]:
    """Return the root of each latent's summed squares over the tokens; of a silent one 1e-12.

    The gradient by a silent latent's values is 0.
    """
    values, indices = latents.as_rows()
    squares = values.new_zeros(d_sae).index_add(
        0, indices.clamp(min=0).flatten().long(), values.square().flatten()
    )
    return squares.clamp(min=EPSILON**2).sqrt()
