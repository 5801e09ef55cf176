"""Latents as detectors of features: where a feature fires against where its latent is active.

With the latent that is matched with a feature (see `matching`), over the features that fire at all:

- recall: of the rows in which the feature fires, those in which its latent is active;
- precision: of the rows in which the latent is active, those in which the feature fires;
- F1: 2 · both / (rows of the feature + rows of the latent).

A feature without a latent counts 0 in all three. SynthSAEBench (arXiv 2602.14687) means by F1,
precision and recall another thing, measured here beside them as `latent_f1`, `latent_precision`,
`latent_recall`: each *latent* against the feature of the largest |cosine| with it, as a mean over
the latents, those that are never active counting 0. Features that no latent stands for do not lower
these, and two latents for one feature do not compete.

splitting is the share of the features that fire which have at least two parts. A part of a feature
is a latent whose nearest feature it is, which mostly fires for it (precision at least 0.5), and for
some of it only (recall from 0.05 to 0.95). Two latents that both cover a feature are copies, not
parts, and lower the uniqueness instead. (Feature splitting: Chanin et al., arXiv 2409.14507, there
found by probes, since no feature is known.)
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.eval.ground_truth.batches import Active, Batch
from temporal_sae.eval.ground_truth.matching import Matches
from temporal_sae.eval.ground_truth.truth import of_truth
from temporal_sae.metrics import declare

METRICS = declare(
    of_truth("f1", better="higher", label="F1"),
    of_truth("precision", better="higher"),
    of_truth("recall", better="higher"),
    of_truth("latent_f1", better="higher", label="F1 of latents"),
    of_truth("latent_precision", better="higher"),
    of_truth("latent_recall", better="higher"),
    of_truth("splitting", better="lower"),
)
LEAST_PRECISION = 0.5  # of a part of a feature
LEAST_RECALL, MOST_RECALL = 0.05, 0.95


class Detection:
    """Rows in which features fire and latents are active, alone and together.

    Args:
        matches: of features and latents.
        device: where the batches are.
    """

    def __init__(self, matches: Matches, device: torch.device) -> None:
        self.matches = matches
        self._latent, self._nearest = matches.latent.to(device), matches.nearest.to(device)
        n_features, d_sae = len(matches.latent), matches.d_sae
        self._fired, self._both = (torch.zeros(n_features, dtype=torch.int64) for _ in range(2))
        self._active, self._right = (torch.zeros(d_sae, dtype=torch.int64) for _ in range(2))

    def add(self, batch: Batch, latents: Active) -> None:
        """Count a batch."""
        features = batch.features
        self._fired += features.count().cpu()
        found = latents.at(features.row, self._latent[features.which]) > 0
        self._both += features.count(found).cpu()
        self._active += latents.count().cpu()
        right = features.at(latents.row, self._nearest[latents.which]) > 0
        self._right += latents.count(right).cpu()

    def f1(self) -> Float[Tensor, " n_features"]:
        """Return 2 · both / (fired + active) of each feature, 0 where neither ever was."""
        return 2 * self._both / (self._fired + self._active_of_features()).clamp(min=1)

    def metrics(self) -> dict[str, float]:
        """Return each metric of this file by its name."""
        seen = self._fired > 0
        precision = self._both / self._active_of_features().clamp(min=1)
        recall = self._both / self._fired.clamp(min=1)
        means = {"f1": self.f1()[seen], "precision": precision[seen], "recall": recall[seen]}
        means |= self._of_latents() | {"splitting": (self._parts() >= 2)[seen].float()}
        return {name: mean(values) for name, values in means.items()}

    def _active_of_features(self) -> Int[Tensor, " n_features"]:
        latent = self.matches.latent
        return torch.where(latent >= 0, self._active[latent.clamp(min=0)], 0)

    def _of_latents(self) -> dict[str, Float[Tensor, " d_sae"]]:
        fired = self._fired[self.matches.nearest]
        return {
            "latent_f1": 2 * self._right / (fired + self._active).clamp(min=1),
            "latent_precision": self._right / self._active.clamp(min=1),
            "latent_recall": self._right / fired.clamp(min=1),
        }

    def _parts(self) -> Int[Tensor, " n_features"]:
        """Return the number of parts of each feature."""
        found = self._of_latents()
        recall = found["latent_recall"]
        is_part = found["latent_precision"] >= LEAST_PRECISION
        is_part &= (recall >= LEAST_RECALL) & (recall <= MOST_RECALL)
        return torch.bincount(self.matches.nearest[is_part], minlength=len(self._fired))


def mean(values: Tensor) -> float:
    """Return the mean in float64, NaN of nothing."""
    return float(values.double().mean()) if len(values) else math.nan
