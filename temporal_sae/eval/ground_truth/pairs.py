"""Pairs of latents: what can be seen without labels, and how well it finds absorption.

With n_ij the rows in which latents i and j are both active, c_ij = n_ij / N and cos_ij the cosine
of their decoder rows:

- joint_overlap: Σ c cos² / Σ c over i < j, in [0, 1]: the orthogonality penalty of this package,
  measured on held-out rows; a label-free sum of what absorption does to an SAE.
- joint_overlap_ap: the average precision with which c cos² ranks, among all pairs of latents, those
  of a parent's and a child's latent that are truly absorbed; `cosine_ap`: the same for cos² alone.
  A pair is absorbed when the parent is (see `absorption`) in more than 0.3 of the child's rows, and
  both latents have a |cosine| above 0.5 with their features. NaN where there is none.
- mean_abs_phi: the mean |φ| over the pairs with an expected count n_i n_j / N of at least 10, the
  measure of atomicity in MetaSAEs (arXiv 2604.03436). Independent latents have √(2 / (π N)).

Where more latents are active in a row than an SAE's `tracked_latents`, the largest are counted.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temporal_sae.eval.ground_truth.absorption import Absorption
from temporal_sae.eval.ground_truth.matching import Matches
from temporal_sae.eval.ground_truth.truth import Known, of_truth
from temporal_sae.kernels import windows
from temporal_sae.latents import Latents
from temporal_sae.loss.pairs import unit_rows
from temporal_sae.metrics import declare
from temporal_sae.sae import SparseAutoencoder

METRICS = declare(
    of_truth("joint_overlap", better="lower"),
    of_truth("joint_overlap_ap", compared=False),
    of_truth("cosine_ap", compared=False),
    of_truth("mean_abs_phi", better="lower"),
)
MOST_ROWS = 32768  # that are counted at once
LEAST_EXPECTED = 10.0
LEAST_ABSORBED, LEAST_COSINE = 0.3, 0.5
COPIES = 12  # of a number for every two latents: their counts, cosines, scores, and what φ takes


class PairCounts:
    """Rows in which any two latents of an SAE are active together.

    Args:
        sae: has the latents.
    """

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae = sae
        self.n_rows = 0
        self._waiting: list[Int[Tensor, "rows k"]] = []
        shape, device = (sae.d_sae, sae.d_sae), sae.W_dec.device
        self._both = torch.zeros(shape, dtype=torch.int32, device=device)
        self._alone = torch.zeros(sae.d_sae, dtype=torch.int64, device=device)

    def add(self, latents: Latents) -> None:
        """Count a batch."""
        active = latents.largest(self.sae.tracked_latents).active_indices()
        self._waiting.append(windows.sorted_rows(active, self.sae.d_sae))
        self.n_rows += len(active)
        if sum(map(len, self._waiting)) >= MOST_ROWS:
            self._count()

    def _count(self) -> None:
        """Count what is waiting, many rows at once: each time costs a look at every two latents."""
        width = max(rows.shape[1] for rows in self._waiting)
        pad = torch.nn.functional.pad
        rows = torch.cat([pad(r, (0, width - r.shape[1]), value=-1) for r in self._waiting])
        self._waiting.clear()
        self._both += windows.count_rows(
            windows.index_window(rows, self.sae.d_sae), 0, len(self._both)
        )
        self._alone += torch.bincount(rows[rows >= 0].long(), minlength=len(self._both))

    def metrics(self, known: Known, matches: Matches, absorption: Absorption) -> dict[str, float]:
        """Return each metric of this file by its name."""
        if self._waiting:
            self._count()
        upper = torch.ones_like(self._both, dtype=torch.bool).triu_(1)
        both = self._both[upper].float()
        rows = unit_rows(self.sae.W_dec.float())
        overlap = (rows @ rows.T).square_()[upper]
        absorbed = absorbed_pairs(known, matches, absorption).to(upper.device)[upper].cpu()
        joint = both * overlap
        total = float(both.sum(dtype=torch.float64))
        return {
            "joint_overlap": float(joint.sum(dtype=torch.float64)) / max(total, 1.0),
            "joint_overlap_ap": average_precision(joint.cpu(), absorbed),
            "cosine_ap": average_precision(overlap.cpu(), absorbed),
            "mean_abs_phi": self._mean_abs_phi(upper),
        }

    def _mean_abs_phi(self, upper: Bool[Tensor, "F F"]) -> float:
        alone, n_rows = self._alone.double(), self.n_rows
        varies = (alone > 0) & (alone < n_rows)  # one that is always active goes with nothing
        enough = torch.outer(alone, alone) >= LEAST_EXPECTED * n_rows
        i, j = (enough & upper & varies & varies[:, None]).nonzero(as_tuple=True)
        c, p, q = self._both[i, j] / n_rows, alone[i] / n_rows, alone[j] / n_rows
        phi = (c - p * q) / (p * (1 - p) * q * (1 - q)).sqrt()
        return float(phi.abs().mean()) if len(phi) else math.nan


def absorbed_pairs(known: Known, matches: Matches, absorption: Absorption) -> Bool[Tensor, "F F"]:
    """Mark (i, j), i < j, of the latents of a child and its parent where the latter is absorbed."""
    child = known.children[absorption.shares()[known.children] > LEAST_ABSORBED]
    parent = known.parent_of[child]
    sure = torch.minimum(matches.cosine[child], matches.cosine[parent]) > LEAST_COSINE
    pair = matches.latent[torch.stack([child[sure], parent[sure]])].sort(0).values
    marks = torch.zeros(matches.d_sae, matches.d_sae, dtype=torch.bool)
    marks[pair[0], pair[1]] = True
    return marks


def average_precision(scores: Float[Tensor, " n"], wanted: Bool[Tensor, " n"]) -> float:
    """Return Σ_t (R_t - R_{t-1}) P_t over all thresholds t; equal scores are passed together.

    P_t and R_t are precision and recall of what has a score of t or more. NaN: nothing is wanted.
    """
    ordered, of_wanted = (np.sort(s.numpy()) for s in (scores, scores[wanted]))
    if not len(of_wanted):
        return math.nan
    taken, right = (len(s) - np.searchsorted(s, of_wanted) for s in (ordered, of_wanted))
    return float((right / taken).mean())
