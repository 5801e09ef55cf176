"""Parents whose latents fall silent, or write less, where a child's latent takes their place.

A parent and a child are two features of which the second never fires without the first. Both
measures look at the rows in which a parent and a child of it fire; where several children do, the
row counts for each. They are means over the parents that were seen with a child, and of a parent
over its rows.

- absorption (full): the parent's latent is silent and the child's is active (Chanin et al., arXiv
  2409.14507, for a world in which parents and children are known).
- fractional_absorption: how much of what the parent's latent does not write the child's latent
  writes in its place, as a share of what is there. With d_p, d_c the directions of parent and
  child, q = d_p - (d_p · d_c) d_c the part of the first that the second has nothing of, and v the
  parent's value in the row: v ‖q‖² is there, m = f (w · q) is what a latent with value f and
  decoder row w writes of it, m_p that of the parent's latent and m_c that of the child's. The
  fraction is min(max(m_c, 0), v ‖q‖² - min(max(m_p, 0), v ‖q‖²)) / (v ‖q‖²). SAEBench's
  `absorption_fraction` looks for the absorbers among all latents, and sets the fraction to 0 below
  a share of 0.4; here the child's latent is known, and nothing is left out.

`absorption_depth_n` is the first for the parents that have n ancestors themselves, where the
hierarchy has more than one level.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.eval.ground_truth.batches import Active, Batch
from temporal_sae.eval.ground_truth.detection import mean
from temporal_sae.eval.ground_truth.matching import Matches
from temporal_sae.eval.ground_truth.truth import Known, of_truth
from temporal_sae.metrics import declare

METRICS = declare(
    of_truth("absorption", better="lower", label="absorption"),
    of_truth("fractional_absorption", better="lower", label="fractional absorption"),
    of_truth("absorption_depth_*", better="lower"),
)


class Absorption:
    """Rows of each child with its parent, and those in which the parent is absorbed.

    Args:
        known: the features.
        matches: of features and latents.
        W_dec: decoder.
    """

    def __init__(self, known: Known, matches: Matches, W_dec: Float[Tensor, "d_sae d_in"]) -> None:
        self.known = known
        self._parent_of = known.parent_of.to(W_dec.device)
        self._latent = matches.latent.to(W_dec.device)
        # By child: what is there of the parent for each unit of its value, and what latents write.
        of_parent, self._there = parents_parts(known)
        self._by_parent = written(matches.latent[known.parent_of.clamp(min=0)], of_parent, W_dec)
        self._by_child = written(matches.latent, of_parent, W_dec)
        self._there = self._there.to(W_dec.device)
        n = known.n_features
        self.with_parent, self.absorbed, self._fraction = (
            torch.zeros(n, dtype=torch.float64) for _ in range(3)
        )

    def add(self, batch: Batch, latents: Active) -> None:
        """Count a batch."""
        if not len(self.known.children):
            return
        row, child = batch.features.row, batch.features.which
        value = batch.features.at(row, self._parent_of[child])
        both = value > 0
        row, child, value = row[both], child[both], value[both]
        of_child = latents.at(row, self._latent[child])
        of_parent = latents.at(row, self._latent[self._parent_of[child]])
        there = value * self._there[child]
        left = there - (of_parent * self._by_parent[child]).clamp(min=0)
        carried = (of_child * self._by_child[child]).clamp(min=0)
        fraction = torch.minimum(carried, left.clamp(min=0)) / there.clamp(min=1e-12)
        self._sum(self.with_parent, child, torch.ones_like(value))
        self._sum(self.absorbed, child, (of_child > 0) & (of_parent <= 0))
        self._sum(self._fraction, child, fraction)

    def _sum(self, sums: Tensor, child: Int[Tensor, " n"], values: Tensor) -> None:
        n = len(sums)
        sums += torch.bincount(child, weights=values.double(), minlength=n).cpu()

    def shares(self) -> Float[Tensor, " n_features"]:
        """Return of each child the share of its rows in which its parent is absorbed."""
        return self.absorbed / self.with_parent.clamp(min=1)

    def metrics(self) -> dict[str, float]:
        """Return each metric of this file by its name."""
        rows, absorbed, fraction = map(
            self._over_children, (self.with_parent, self.absorbed, self._fraction)
        )
        seen = rows > 0
        share = absorbed / rows.clamp(min=1)
        depths = self.known.depths()
        levels = depths[self.known.parent_of[self.known.children]].unique().tolist()
        by_depth = {f"absorption_depth_{n}": mean(share[seen & (depths == n)]) for n in levels}
        return {
            "absorption": mean(share[seen]),
            "fractional_absorption": mean((fraction / rows.clamp(min=1))[seen]),
            **(by_depth if len(levels) > 1 else {}),
        }

    def _over_children(self, sums: Float[Tensor, " n_features"]) -> Float[Tensor, " n_features"]:
        """Sums of each parent over its children."""
        children = self.known.children
        by_parent = torch.zeros_like(sums)
        return by_parent.index_add_(0, self.known.parent_of[children], sums[children])


def parents_parts(
    known: Known,
) -> tuple[Float[Tensor, "n_features d_in"], Float[Tensor, " n_features"]]:
    """Return, for each child, the part q of its parent's direction that it has not, and ‖q‖².

    Both are 0 for features without a parent.
    """
    parents = known.directions[known.parent_of.clamp(min=0)] * (known.parent_of >= 0)[:, None]
    overlap = (parents * known.directions).sum(-1, keepdim=True)
    parts = parents - overlap * known.directions
    return parts, parts.square().sum(-1)


def written(
    latent: Int[Tensor, " n_features"],
    parts: Float[Tensor, "n_features d_in"],
    W_dec: Float[Tensor, "d_sae d_in"],
) -> Float[Tensor, " n_features"]:
    """Return w · q of a latent and a part for each feature; 0 where there is no latent."""
    rows = W_dec[latent.clamp(min=0).to(W_dec.device)].float()
    products = (rows * parts.to(W_dec.device)).sum(-1)
    return products * (latent >= 0).to(W_dec.device)
