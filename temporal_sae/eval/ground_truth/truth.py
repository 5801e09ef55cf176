"""Numbers that a source of known features has to give, and what follows from them alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.activations import Rows
from temporal_sae.latents import Latents
from temporal_sae.metrics import TRUTH_SECTION, Metric

Pairs = Int[Tensor, "n_pairs 2"]


class Truth(Protocol):
    """Features that are known to be true.

    Attributes:
        directions: unit rows, float [n_features, d_in].
        parent_of: without which a feature never fires, -1 for none, int [n_features].
        true_pairs: (first, second) of which the first brings the second along wherever it fires.
        spurious_pairs: (first, second) of which it does so in some places only.
    """

    directions: Float[Tensor, "n_features d_in"]
    parent_of: Int[Tensor, " n_features"]
    true_pairs: Pairs
    spurious_pairs: Pairs


class KnownSource(Protocol):
    """A source of rows whose features are known."""

    truth: Any

    def held_out_with_truth(
        self, n_sequences: int, batch_sequences: int, seed: int = 0
    ) -> Iterator[tuple[Rows, Latents]]:
        """Yield held-out rows, each with the features that fire in it and their values."""
        ...


class Known(NamedTuple):
    """A truth on the CPU, with its hierarchy as one list.

    Attributes:
        directions: unit rows, float32 [n_features, d_in].
        parent_of: -1 for none, int64 [n_features].
        true_pairs, spurious_pairs: (first, second), int64 [n_pairs, 2].
    """

    directions: Float[Tensor, "n_features d_in"]
    parent_of: Int[Tensor, " n_features"]
    true_pairs: Pairs
    spurious_pairs: Pairs

    @classmethod
    def of(cls, truth: Any) -> Known:
        """Take what a `Truth` has."""
        pairs = (getattr(truth, f"{kind}_pairs").cpu().long() for kind in ("true", "spurious"))
        directions = torch.nn.functional.normalize(truth.directions.cpu().float(), dim=-1)
        return cls(directions, truth.parent_of.cpu().long(), *pairs)

    @property
    def children(self) -> Int[Tensor, " n_edges"]:
        """Features that have a parent."""
        return (self.parent_of >= 0).nonzero()[:, 0]

    @property
    def n_features(self) -> int:
        """Features in all."""
        return len(self.parent_of)

    def depths(self) -> Int[Tensor, " n_features"]:
        """Ancestors of each feature: its parent, the parent of that, and so on."""
        depth = torch.zeros_like(self.parent_of)
        above = self.parent_of
        while bool((above >= 0).any()):
            depth += above >= 0
            above = torch.where(above >= 0, self.parent_of[above.clamp(min=0)], -1)
        return depth


def of_truth(name: str, **facts: Any) -> Metric:
    """Return a metric among `metrics` of the section on the truth."""
    return Metric(name=name, sections=(TRUTH_SECTION,), groups=("metrics",), **facts)
