"""The latent of each feature, and the feature of each latent, by their directions alone.

- MCC: features and latents are matched one to one so that the sum of |cosine| is largest
  (Hungarian algorithm); the mean of it over the pairs, as many as there are features or latents,
  the fewer (as in arXiv 2505.20254 and SynthSAEBench, 2602.14687).
- uniqueness: features that are the nearest, by |cosine|, to any latent, over the number of latents;
  1 where no two latents stand for one feature (SynthSAEBench).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from temporal_sae.eval.ground_truth.truth import of_truth
from temporal_sae.metrics import declare

METRICS = declare(
    of_truth("mcc", better="higher", label="MCC", headline=True),
    of_truth("uniqueness", better="higher"),
)


@dataclass(frozen=True)
class Matches:
    """Features and latents that belong together, on the CPU.

    Attributes:
        latent: of each feature, no latent twice; -1 where none is left for it, int64 [n_features].
        cosine: of the two, without its sign; 0 where there is none, float32 [n_features].
        nearest: the feature of the largest |cosine| with each latent, int64 [d_sae].
        rows: unit directions of the latents that features have, of the sign that makes their cosine
            positive; 0 where there is none, float32 [n_features, d_in].
    """

    latent: Int[Tensor, " n_features"]
    cosine: Float[Tensor, " n_features"]
    nearest: Int[Tensor, " d_sae"]
    rows: Float[Tensor, "n_features d_in"]

    @classmethod
    def of(
        cls, directions: Float[Tensor, "n_features d_in"], W_dec: Float[Tensor, "d_sae d_in"]
    ) -> Matches:
        """Match the rows of a decoder with directions."""
        from scipy.optimize import linear_sum_assignment  # slow to import

        truth = normalize(directions.float(), dim=-1).to(W_dec.device)
        latents = normalize(W_dec.float(), dim=-1)
        cosines = truth @ latents.T
        sizes = cosines.abs().cpu()
        features, matched = map(
            torch.from_numpy, linear_sum_assignment(sizes.numpy(), maximize=True)
        )
        latent, cosine = torch.full((len(truth),), -1), torch.zeros(len(truth))
        latent[features], cosine[features] = matched, sizes[features, matched]
        rows = torch.zeros(len(truth), W_dec.shape[1])
        signs = cosines.cpu()[features, matched].sign()
        rows[features] = latents.cpu()[matched] * signs[:, None]
        return cls(latent, cosine, sizes.argmax(0), rows)

    @property
    def d_sae(self) -> int:
        """Latents in all."""
        return len(self.nearest)

    def metrics(self) -> dict[str, float]:
        """Return each metric of this file by its name."""
        mcc = float(self.cosine.sum()) / min(self.d_sae, len(self.latent))
        return {"mcc": mcc, "uniqueness": len(self.nearest.unique()) / self.d_sae}


def match(
    directions: Float[Tensor, "n_features d_in"], W_dec: Float[Tensor, "d_sae d_in"]
) -> tuple[Int[Tensor, " n_features"], Float[Tensor, " n_features"]]:
    """Return the latent of each feature and their |cosine|; -1 and 0 where none is left for it."""
    found = Matches.of(directions, W_dec)
    return found.latent, found.cosine
