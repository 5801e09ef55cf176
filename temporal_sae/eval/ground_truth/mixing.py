"""Directions that a feature's latent has taken from other features.

Let u_i be the unit direction of the latent that is matched with feature i, of the sign that makes
u_i · d_i positive. A pair whose first feature has no latent is left out.

- hedging: the mean of |u_i · d_j| - |d_i · d_j| over the ordered pairs (i, j) that are related: a
  parent and a child or the two of a true pair, either of them first. An SAE that is too narrow for
  features that fire together merges them (Chanin et al., arXiv 2505.11756).
- leakage: the mean of u_i · d_j - d_i · d_j over the spurious pairs (i, j): how much of a feature
  that only sometimes comes along has been learnt as a part of the first.
- leakage_true: the same over the true pairs, for comparison.

All are 0 for the true directions and for directions at random; a latent that writes the sum of two
features at right angles has .71.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.eval.ground_truth.detection import mean
from temporal_sae.eval.ground_truth.matching import Matches
from temporal_sae.eval.ground_truth.truth import Known, Pairs, of_truth
from temporal_sae.metrics import declare

METRICS = declare(
    of_truth("hedging", better="lower", label="hedging"),
    of_truth("leakage", better="lower", label="leakage of spurious partners"),
    of_truth("leakage_true", better="lower"),
)


def mixing_of(known: Known, matches: Matches) -> dict[str, float]:
    """Return each metric of this file by its name; NaN where there are no such pairs."""
    edges = torch.stack([known.children, known.parent_of[known.children]], 1)
    related = torch.cat([edges, known.true_pairs])
    found, true = cosines(known, matches, torch.cat([related, related.flip(1)]))
    excess = {"hedging": found.abs() - true.abs()}
    for name, pairs in (("leakage", known.spurious_pairs), ("leakage_true", known.true_pairs)):
        found, true = cosines(known, matches, pairs)
        excess[name] = found - true
    return {name: mean(values) for name, values in excess.items()}


def cosines(
    known: Known, matches: Matches, pairs: Pairs
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return u_i · d_j and d_i · d_j of the pairs whose first feature has a latent."""
    i, j = pairs[matches.latent[pairs[:, 0]] >= 0].T
    second = known.directions[j]
    return (matches.rows[i] * second).sum(-1), (known.directions[i] * second).sum(-1)
