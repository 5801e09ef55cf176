"""Evaluation against features that are known to be true.

Each file of this folder has measures of one kind, with their definitions and sources at its top and
in docs/evaluation.md: `matching`, `detection`, `absorption`, `mixing` and `pairs`. Reconstruction,
sparsity and dead latents on the same rows are those of the evaluation of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch

from temporal_sae import schemas
from temporal_sae.activations import ActivationSource
from temporal_sae.activations.source import ROWS, TRUTH
from temporal_sae.errors import keep_int
from temporal_sae.eval.ground_truth import absorption, detection, matching, mixing, pairs
from temporal_sae.eval.ground_truth.absorption import Absorption
from temporal_sae.eval.ground_truth.batches import Active, Batch
from temporal_sae.eval.ground_truth.detection import Detection
from temporal_sae.eval.ground_truth.matching import Matches
from temporal_sae.eval.ground_truth.mixing import mixing_of
from temporal_sae.eval.ground_truth.pairs import PairCounts
from temporal_sae.eval.ground_truth.truth import Known, KnownSource
from temporal_sae.eval.memory import FLOAT, of_batches
from temporal_sae.eval.rows import OnRows, metrics_of_rows
from temporal_sae.eval.together import SharedEvaluation, Together
from temporal_sae.machine import Planned
from temporal_sae.metrics import TRUTH_SECTION, Metric
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder

METRICS = tuple(
    m for part in (matching, detection, absorption, mixing, pairs) for m in part.METRICS
)
COSINE_COPIES = 6  # in float32: with and without sign, and what matching makes of them in float64


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
        """Those against the truth, and those on rows alone."""
        return (*METRICS, *metrics_of_rows())

    def planned_bytes(self, source: ActivationSource, sae: SparseAutoencoder) -> dict[str, Planned]:
        """Return the memory of a batch, and of what is kept for every latent with all others."""
        batches = {"batch_sequences": self.batch_sequences}
        n_features, rows = len(source.truth.directions), source.sequence_rows
        in_batch = FLOAT * self.batch_sequences * rows * n_features
        # Matching comes before the rows, statistics of pairs after them: one is gone by then.
        at_once = max(COSINE_COPIES * n_features, pairs.COPIES * sae.d_sae)
        of_all = FLOAT * sae.d_sae * at_once
        planned = partial(Planned, phase="evaluation")
        return {
            **of_batches(batches, rows, source, sae),
            "features in evaluation": planned(in_batch, ("eval.batch_sequences",)),
            "matching with features": planned(of_all, ("sae.d_sae",)),
        }

    def measure(self, sae: SparseAutoencoder, source: ActivationSource) -> dict[str, Any]:
        """Return `metrics`, and by feature `matches`: its latent, |cosine| and F1."""
        section: dict[str, Any] = self.sections(sae, source)[TRUTH_SECTION]
        return section

    @torch.no_grad()
    def measure_together(
        self, saes: Sequence[SparseAutoencoder], source: ActivationSource
    ) -> list[dict[str, Any] | Exception]:
        """Return the section of each SAE, or the error that it has raised.

        Args:
            saes: take rows of the source as they are (input scale folded in).
            source: has a `Truth`, and rows with it, as a `KnownSource` has.
        """
        source.open()
        known = Known.of(source.truth)
        rows = cast(KnownSource, source).held_out_with_truth(
            self.n_sequences, self.batch_sequences, self.seed
        )
        together = Together(partial(AgainstTruth, known=known, source=source), saes)
        together.take((Batch.of(pair, known.n_features) for pair in rows), AgainstTruth.add)
        return together.answers(lambda found: {"eval_cfg": asdict(self), **found.scores()})


class AgainstTruth:
    """All measures of one SAE.

    Args:
        sae: takes rows as the source gives them (input scale folded in).
        known: the features.
        source: of the rows.
    """

    def __init__(self, sae: SparseAutoencoder, known: Known, source: ActivationSource) -> None:
        self.known, self.sae = known, sae
        self.matches = Matches.of(known.directions, sae.W_dec)
        self.on_rows = OnRows(sae, source)
        self.detection = Detection(self.matches, sae.W_dec.device)
        self.absorption = Absorption(known, self.matches, sae.W_dec)
        self.pairs = PairCounts(sae)

    def add(self, batch: Batch) -> None:
        """Encode and decode a batch, and count what is active in it."""
        latents = self.on_rows.add(batch.rows)
        active = Active.of(latents, self.sae.d_sae)
        self.detection.add(batch, active)
        self.absorption.add(batch, active)
        self.pairs.add(latents)

    def scores(self) -> dict[str, Any]:
        """Return `metrics`, and by feature `matches`: its latent, |cosine| and F1."""
        metrics = {
            **self.matches.metrics(),
            **self.detection.metrics(),
            **self.absorption.metrics(),
            **mixing_of(self.known, self.matches),
            **self.pairs.metrics(self.known, self.matches, self.absorption),
            **self.on_rows.metrics(),
        }
        latent, cosine = self.matches.latent.tolist(), self.matches.cosine.tolist()
        matches = {"latent": latent, "cosine": cosine, "f1": self.detection.f1().tolist()}
        return {"metrics": metrics, "matches": matches}
