"""Schemas of `results.json`, section by section, and of the evaluations that it holds."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic knows that of typing from Python 3.12 on

Number = float | None  # JSON has no NaN: where there is none, it says null


class TrainingConfig(TypedDict):
    """The config of a training."""

    dict_class: str
    lm_name: str | None
    submodule_name: str | None
    activations: NotRequired[str]
    activation_dim: int
    dict_size: int
    steps: int
    lr: float
    ortho_weight: float
    seed: int


class Training(TypedDict):
    """The section of `results.json` on training."""

    config: TrainingConfig
    final_info: dict[str, Any]


class CoActivation(TypedDict, total=False):
    """The section of `results.json` on what the tracker saw."""

    frequent_pairs: Number
    pair_stability: Number
    pair_z_rms: Number
    pairs_beyond_3_sigma: Number
    bursty_share: Number
    latent_burstiness_median: Number
    fano_factor_median: Number
    co_activation_entropy: Number
    phi_mean_of_top_pairs: Number
    top_pairs_half_life_windows: Number
    top_pairs_overlap_by_windows: dict[str, Number]
    decoder_drift: Number
    decoder_effective_rank: Number
    decoder_mean_max_cosine: Number


class Cost(TypedDict):
    """The section of `results.json` on time and memory."""

    training_seconds: float
    tracker_seconds: float
    penalty_seconds: float
    method_share_of_training_time: float
    tracker_bytes: int


class TaskScores(TypedDict):
    """The section of `results.json` on the tasks."""

    options: dict[str, Any]
    intervals: NotRequired[dict[str, list[Number] | None]]
    scores: dict[str, Number]


class ResampledScore(TypedDict):
    """A score in each resample of the texts; `units` is how many texts or words there are."""

    units: int
    values: list[Number]


class TaskRecord(TypedDict):
    """`eval/tasks_*.json`."""

    options: dict[str, Any]
    details: dict[str, Any]
    intervals: dict[str, list[Number] | None]
    resampled: NotRequired[dict[str, ResampledScore]]
    scores: dict[str, Number]


class CoreScores(TypedDict):
    """`eval/core.json`, and the section of `results.json` that it is."""

    metrics: dict[str, dict[str, Number]]


class TruthScores(TypedDict):
    """`eval/ground_truth.json`, and the section of `results.json` that it is."""

    metrics: dict[str, Number | dict[str, Number]]


class Scores(TypedDict, total=False):
    """The section of `results.json` of any other evaluation."""

    metrics: dict[str, Any]
    eval_result_metrics: dict[str, Any]


# By the beginning of a section's name: those with scores, and with them those that reports tell of.
SCORED: dict[str, Any] = {
    "tasks results": TaskScores,
    "core evaluation results": CoreScores,
    "ground truth results": TruthScores,
}
TOLD: dict[str, Any] = SCORED | {
    "training results": Training,
    "co-activation results": CoActivation,
    "cost": Cost,
}
