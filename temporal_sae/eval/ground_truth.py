"""Evaluation against features that are known to be true.

Each feature is matched with one latent and each latent with at most one feature, so that the sum of
their |cosines| is largest (the assignment of Hungarian matching). Then

- MCC is the mean |cosine| of the matched (as many as there are features or latents, the fewer),
- F1 compares, on held-out rows, where a feature fires with where its latent is active, as a mean
  over the features; one without a latent counts 0; precision and recall likewise,
- absorption is the share of the rows with a parent and one of its children in which the parent's
  latent is silent while the child's is active, as a mean over the parents (Chanin et al.,
  arXiv 2409.14507, for a world in which parents and children are known).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temporal_sae import schemas
from temporal_sae.activations import ActivationSource, Rows, SyntheticActivations, World
from temporal_sae.activations.source import ROWS, TRUTH
from temporal_sae.errors import keep_int
from temporal_sae.eval.memory import of_batches
from temporal_sae.eval.together import SharedEvaluation, Together
from temporal_sae.latents import Latents
from temporal_sae.machine import Planned
from temporal_sae.metrics import Metric, declare
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder

TRUTH_SECTION = "ground truth results"
of_truth = partial(Metric, sections=(TRUTH_SECTION,), groups=("metrics",))
METRICS = declare(
    of_truth(name="mcc", better="higher", label="MCC", headline=True),
    of_truth(name="f1", better="higher", label="F1"),
    of_truth(name="precision", better="higher"),
    of_truth(name="recall", better="higher"),
    of_truth(name="absorption", better="lower", label="absorption"),
)


@component("eval")
@dataclass(frozen=True)
class GroundTruthEvaluation(SharedEvaluation):
    """Options of the evaluation.

    Attributes:
        n_sequences: held-out sequences of 128 rows.
        batch_sequences: sequences at once.
        seed: which rows.

    Raises:
        InvalidOption: an option is out of range.
    """

    n_sequences: int = 1024
    batch_sequences: int = 32
    seed: int = 0

    name: ClassVar[str] = "ground_truth"
    needs: ClassVar[frozenset[str]] = frozenset({ROWS, TRUTH})
    section: ClassVar[str] = TRUTH_SECTION
    schema: ClassVar[Any] = schemas.TruthScores

    def __post_init__(self) -> None:
        keep_int(self, "n_sequences", 1)
        keep_int(self, "batch_sequences", 1)
        keep_int(self, "seed", 0)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All of them."""
        return METRICS

    def planned_bytes(self, source: ActivationSource, sae: SparseAutoencoder) -> dict[str, Planned]:
        """Return the memory of a batch, and of the cosines of all latents with all features."""
        batches = {"batch_sequences": self.batch_sequences}
        n_features = len(source.truth.directions)
        cosines = Planned(3 * 4 * sae.d_sae * n_features, ("sae.d_sae",))
        return {
            **of_batches(batches, source.sequence_rows, source, sae),
            "cosines with features": cosines,
        }

    def measure(self, sae: SparseAutoencoder, source: SyntheticActivations) -> dict[str, Any]:
        """Return `metrics`, and by feature `matches`: its latent, |cosine| and F1."""
        section: dict[str, Any] = self.sections(sae, source)[TRUTH_SECTION]
        return section

    @torch.no_grad()
    def measure_together(
        self, saes: Sequence[SparseAutoencoder], source: ActivationSource
    ) -> list[dict[str, Any] | Exception]:
        """Return the section of each SAE, or the error that it has raised."""
        source.open()
        known = cast(SyntheticActivations, source)
        together = Together(partial(Counts, cast(World, source.truth)), saes)
        batches = known.held_out_with_truth(self.n_sequences, self.batch_sequences, self.seed)
        together.take(batches, Counts.add)
        return together.answers(lambda counts: {"eval_cfg": asdict(self), **counts.scores()})


def match(
    directions: Float[Tensor, "n_features d_in"], W_dec: Float[Tensor, "d_sae d_in"]
) -> tuple[Int[Tensor, " n_features"], Float[Tensor, " n_features"]]:
    """Return the latent of each feature and their |cosine|; -1 and 0 where none is left for it."""
    truth = torch.nn.functional.normalize(directions, dim=-1).to(W_dec.device)
    from scipy.optimize import linear_sum_assignment  # slow to import

    rows = torch.nn.functional.normalize(W_dec.float(), dim=-1)
    cosines = (truth @ rows.T).abs().cpu()
    features, latents = linear_sum_assignment(cosines.numpy(), maximize=True)
    latent = torch.full((len(directions),), -1)
    latent[features] = torch.from_numpy(latents)
    found = torch.zeros(len(directions))
    found[features] = cosines[features, latents]
    return latent, found


class Counts:
    """Rows in which features fire and their latents are active, alone and together.

    Args:
        world: the features.
        sae: has the latents.

    Attributes:
        latent: of each feature, -1 for none.
        cosine: of the two, without its sign.
    """

    def __init__(self, world: World, sae: SparseAutoencoder) -> None:
        self.world, self.sae = world, sae
        self.latent, self.cosine = match(world.directions, sae.W_dec)
        n = len(self.latent)
        self.fired, self.active, self.both = (torch.zeros(n, dtype=torch.int64) for _ in range(3))
        n_parents = len(world.parents)
        self.with_child, self.absorbed = (
            torch.zeros(n_parents, dtype=torch.int64) for _ in range(2)
        )

    def add(self, batch: tuple[Rows, Latents]) -> None:
        """Count a batch of rows, and the features that are in them."""
        rows, features = batch
        latents = self.sae.encode(rows.x.to(self.sae.W_dec.dtype))
        n_features = len(self.latent)
        fires = marks(features, n_features).cpu()
        d_sae = int(max(self.latent.max(), latents.indices.max())) + 1
        is_active = marks(latents, d_sae).cpu()
        active = is_active[:, self.latent.clamp(min=0)] & (self.latent >= 0)
        self.fired += fires.sum(0)
        self.active += active.sum(0)
        self.both += (fires & active).sum(0)
        parents, children = self.world.parents, self.world.children
        if not len(parents):
            return
        has_child = fires[:, parents, None] & fires[:, children]
        childs_latent = (has_child & active[:, children]).any(-1)
        self.with_child += has_child.any(-1).sum(0)
        self.absorbed += (childs_latent & ~active[:, parents]).sum(0)

    def scores(self) -> dict[str, Any]:
        """Return `metrics`, and by feature `matches`: its latent, |cosine| and F1."""
        latent, cosine = self.latent, self.cosine
        mcc = float(cosine.sum()) / min(self.sae.d_sae, len(cosine))
        f1 = self.f1().tolist()
        matches = {"latent": latent.tolist(), "cosine": cosine.tolist(), "f1": f1}
        return {"metrics": {"mcc": mcc, **self.metrics()}, "matches": matches}

    def f1(self) -> Float[Tensor, " n_features"]:
        """Return 2 · both / (fired + active), 0 where neither ever was."""
        return 2 * self.both / (self.fired + self.active).clamp(min=1)

    def metrics(self) -> dict[str, float]:
        """Means over the features that fired, and over the parents that were seen with a child."""
        seen = self.fired > 0
        precision = (self.both / self.active.clamp(min=1))[seen]
        recall = (self.both / self.fired.clamp(min=1))[seen]
        with_child = self.with_child > 0
        absorption = (self.absorbed / self.with_child.clamp(min=1))[with_child]
        means = {"f1": self.f1()[seen], "precision": precision, "recall": recall}
        means["absorption"] = absorption
        return {n: float(v.mean()) if len(v) else math.nan for n, v in means.items()}


def marks(latents: Latents, n: int) -> Bool[Tensor, "rows n"]:
    """Mark the active ones of n latents in each row."""
    found = torch.zeros(len(latents.indices), n + 1, dtype=torch.bool, device=latents.values.device)
    found.scatter_(1, torch.where(latents.values > 0, latents.indices, n), True)
    return found[:, :n]
