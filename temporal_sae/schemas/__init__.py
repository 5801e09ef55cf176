"""Schemas of the files that this package reads back, in one place.

A run's folder is the only channel between a run, sweeps, evaluations and reports, and its files may
be damaged or made by anybody. Whoever reads one names the part of it that is relied on; more may be
there, and stays. What does not fit is one line.
"""

from __future__ import annotations

from temporal_sae.schemas.peers import (
    SAEBENCH,
    DictionaryLearningConfig,
    SAEBenchRecord,
    SAELensConfig,
)
from temporal_sae.schemas.reading import metrics_of, misfit, read, read_results
from temporal_sae.schemas.results import TOLD, CoreScores, ResampledScore, TaskRecord, TruthScores
from temporal_sae.schemas.runs import (
    AtlasFacts,
    CheckpointState,
    ComparedConfig,
    ComparedRecord,
    EvaluatedRecord,
    MetricsLine,
    RunRecord,
    ToldRecord,
)
from temporal_sae.schemas.stores import (
    ReaderPlace,
    StoredHeldOut,
    StoredSegment,
    StoredShard,
    StoreKey,
    StoreManifest,
)
from temporal_sae.schemas.sweeps import JobState, SweepNote

__all__ = [
    "SAEBENCH",
    "TOLD",
    "AtlasFacts",
    "CheckpointState",
    "ComparedConfig",
    "ComparedRecord",
    "CoreScores",
    "DictionaryLearningConfig",
    "EvaluatedRecord",
    "JobState",
    "MetricsLine",
    "ReaderPlace",
    "ResampledScore",
    "RunRecord",
    "SAEBenchRecord",
    "SAELensConfig",
    "StoreKey",
    "StoreManifest",
    "StoredHeldOut",
    "StoredSegment",
    "StoredShard",
    "SweepNote",
    "TaskRecord",
    "ToldRecord",
    "TruthScores",
    "metrics_of",
    "misfit",
    "read",
    "read_results",
]
