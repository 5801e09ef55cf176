"""Schemas of the files that this package reads back, in one place.

A run's folder is the only channel between a run, sweeps, evaluations and reports, and its files may
be damaged or made by anybody. Whoever reads one names the part of it that is relied on; more may be
there, and stays. What does not fit is one line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeVar

from typing_extensions import TypedDict  # pydantic knows that of typing from Python 3.12 on

from temporal_sae.errors import RunError, one_line
from temporal_sae.files import parse_json, read_json
from temporal_sae.renamed import current_config, current_override

T = TypeVar("T")
Number = float | None  # JSON has no NaN: where there is none, it says null


class TextFacts(TypedDict):
    """The text of a run."""

    accepted_changes: list[str]


class RunRecord(TypedDict):
    """`run.json`, as far as a run of any state has it."""

    status: Literal["running", "stopped", "failed", "finished"]
    config: dict[str, Any]
    reason: NotRequired[str | None]
    data: NotRequired[TextFacts]


class ComparedConfig(TypedDict):
    """The config in `run.json`, as far as runs have to agree in it to be compared."""

    model: NotRequired[dict[str, Any]]
    data: NotRequired[dict[str, Any]]
    activations: NotRequired[dict[str, Any]]


class ComparedRecord(TypedDict):
    """`run.json` of a run that is compared with others."""

    status: str
    config: ComparedConfig
    seed: int


class Component(TypedDict):
    """A group of a config that is built from it."""

    _target_: str


class EvaluatedConfig(TypedDict):
    """The config in `run.json`, as far as an SAE is judged by it."""

    model: NotRequired[Component]
    data: NotRequired[Component]
    activations: Component


class EvaluatedRecord(TypedDict):
    """`run.json` of a run that is evaluated afterwards."""

    config: EvaluatedConfig


class Peak(TypedDict):
    """Bytes."""

    host: int
    device: NotRequired[int]


class ToldRecord(TypedDict):
    """`run.json`, as far as reports tell of it."""

    command: str
    device: str
    tokens_per_second: float
    peak_memory_bytes: Peak


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


class SAEBenchRecord(TypedDict):
    """`eval/saebench_*.json`."""

    eval_result_metrics: dict[str, dict[str, Any]]


class SAEBenchTies(TypedDict, total=False):
    """Of SCR: pairs in which there is nothing to recover."""

    tied_pairs: list[str]


class SAEBenchSCR(SAEBenchRecord):
    """`eval/saebench_scr.json`."""

    eval_result_unstructured: NotRequired[SAEBenchTies | None]


class SAEBenchAbsorption(SAEBenchRecord):
    """`eval/saebench_absorption.json`; its metrics have a group `mean`."""

    eval_result_details: list[dict[str, Any]]


class SAEBenchWindows(TypedDict):
    """Of the core evaluation: in which batches it was measured."""

    batch_size_prompts: int
    context_size: int


class SAEBenchBeside(TypedDict):
    """Metrics beside SAEBench's own core metrics."""

    explained_variance_textbook: Number
    mse_per_element: Number


class SAEBenchCore(SAEBenchRecord):
    """`eval/saebench_core.json`; its metrics have a group `reconstruction_quality`."""

    sae_lens_release_id: str
    sae_lens_id: str
    eval_config: SAEBenchWindows
    eval_result_unstructured: SAEBenchBeside


# By the name of the evaluation; SAEBenchRecord for the others.
SAEBENCH: dict[str, Any] = {
    "core": SAEBenchCore,
    "scr": SAEBenchSCR,
    "absorption": SAEBenchAbsorption,
}


class SAELensFacts(TypedDict, total=False):
    """The model and place of an SAE of SAELens or of this package."""

    model_name: str | None
    hook_name: str | None
    context_size: int | None
    prepend_bos: bool | None


class SAELensConfig(SAELensFacts, total=False):
    """`cfg.json` of an SAE; before SAELens 6 the facts were not apart from the rest."""

    metadata: SAELensFacts | None


class DictionaryLearningTrainer(TypedDict, total=False):
    """The trainer of dictionary_learning."""

    lm_name: str | None
    submodule_name: str | None


class DictionaryLearningBuffer(TypedDict, total=False):
    """On which activations."""

    ctx_len: int | None


class DictionaryLearningConfig(TypedDict, total=False):
    """`config.json` of dictionary_learning; sparsify's file of that name has neither."""

    trainer: DictionaryLearningTrainer | None
    buffer: DictionaryLearningBuffer | None


class CheckpointState(TypedDict):
    """The content of a run's checkpoint, beside tensors."""

    step: int
    steps_negligible: int
    seconds: float
    metrics: dict[str, float]
    stopwatches: dict[str, float]
    sae: dict[str, Any]
    optimizer: dict[str, Any]
    dead: dict[str, Any]
    tracker: dict[str, Any]
    batches: dict[str, Any]
    stability: dict[str, Any]
    rng: dict[str, Any]
    constraint: NotRequired[dict[str, Any]]


class StoreKey(TypedDict):
    """All that determines which rows a store of activations holds.

    `model` and `data` are the options of their groups, as far as they count; `files` stands for the
    files of the model, `text` is what the text says of itself.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    files: str | None
    text: dict[str, Any]
    num_tokens: int
    held_out_tokens: int
    context_size: int
    prepend_bos: bool
    exclude: list[str]
    lm_batch_size: int
    seed: int
    dtype: Literal["bfloat16", "float32", "int8"]
    shard_rows: int
    mixing_rows: int


class StoreManifest(TypedDict):
    """`manifest.json` of a store of activations."""

    version: Literal[1]
    key: StoreKey
    name: str
    layer: int | None
    d_in: int
    metadata: dict[str, Any]


class StoredShard(TypedDict):
    """A file of rows."""

    rows: int
    xxh3: str


class ReaderPlace(TypedDict):
    """The place at which reading goes on: a reader's state, and rows after it that are done."""

    reader: dict[str, Any]
    skip: int


class StoredSegment(TypedDict):
    """`segment-N.json` of a store: it is there once the shards are that it tells of."""

    shards: list[StoredShard]
    mixing_width: float
    next: ReaderPlace


class StoredHeldOut(TypedDict):
    """`held_out.json` of a store, likewise."""

    shards: list[StoredShard]


class NotedJob(TypedDict):
    """A job in `sweep.json`; earlier versions have also noted why it has failed."""

    number: int
    folder: str
    overrides: list[str]
    reason: NotRequired[str | None]


class FixedMetric(TypedDict):
    """The primary metric of a sweep: when it was fixed, with the hash of all that was planned."""

    metric: str
    fixed: str
    sha256: str


class SweepNote(TypedDict):
    """`sweep.json`; `slurm_job` is the id of the array of its workers."""

    command: str
    launcher: str
    jobs: list[NotedJob]
    slurm_job: NotRequired[str | None]
    primary: NotRequired[FixedMetric | None]


class JobOutcome(TypedDict):
    """The end of a job."""

    reason: str | None
    refused: bool


class JobState(TypedDict):
    """`.sweep/N.json` of a sweep: the work that was put into its job N."""

    attempts: int
    step: int
    worker: NotRequired[str | None]
    outcome: NotRequired[JobOutcome | None]


class MetricsLine(TypedDict):
    """A line of `metrics.jsonl`; its other entries are numbers, which may be NaN."""

    step: int
    loss: NotRequired[Number]
    tokens_per_second: NotRequired[Number]


class AtlasFacts(TypedDict):
    """Facts in the metadata of `latents.parquet`, as far as they are used."""

    n_tokens: int
    min_count: NotRequired[int]
    min_z: NotRequired[float]
    title: NotRequired[str | None]
    model_name: NotRequired[str | None]
    hook_name: NotRequired[str | None]


def read(path: Path, schema: type[T]) -> T:
    """Return the content of a JSON file, of which at least what `schema` says is as it says.

    Names that earlier versions have given to config keys and values come out as they are today.

    Raises:
        FileNotFoundError: there is none.
        RunError: it cannot be read or does not fit; in one line with its path.
    """
    content = read_json(path)
    if problem := misfit(content, schema):
        raise RunError(f"{path}: cannot be read ({problem})")
    fitting: T = _with_current_names(content, schema)
    return fitting


def _with_current_names(content: Any, schema: Any) -> Any:
    if schema in (RunRecord, ComparedRecord, EvaluatedRecord):
        return {**content, "config": current_config(content["config"])}
    if schema is SweepNote:
        jobs = [
            {**job, "overrides": [*map(current_override, job["overrides"])]}
            for job in content["jobs"]
        ]
        return {**content, "jobs": jobs}
    return content


def read_results(path: Path, sections: Mapping[str, Any] = SCORED) -> dict[str, Any]:
    """`results.json`, with each section checked by the schema of `sections`, or as Scores.

    Raises: as `read`.
    """
    results = read(path, dict[str, dict[str, Any]])
    for name, section in results.items():
        schema = next((s for start, s in sections.items() if name.startswith(start)), Scores)
        if problem := misfit(section, schema):
            raise RunError(f"{path}: cannot be read (in {one_line(name)}: {problem})")
    return results


def metrics_of(line: bytes) -> MetricsLine | None:
    """Return a line of `metrics.jsonl`; None for one that is broken."""
    try:
        content = parse_json(line)
    except ValueError:
        return None
    if misfit(content, MetricsLine):
        return None
    metrics: MetricsLine = content
    return metrics


def misfit(content: Any, schema: Any) -> str | None:
    """Return where and how `content` does not fit, in one line; None where it does."""
    from pydantic import ValidationError  # slow to import

    try:
        _checker(schema).validate_python(content, strict=True, extra="allow")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            return one_line(f"it has no {place}")
        said = str(first["msg"]).replace("Input should be", "must be")
        shown = json.dumps(first["input"], default=str)[:60]
        return one_line(f"{place}={shown}: {said}" if place else said)
    return None


@cache
def _checker(schema: Any) -> Any:
    from pydantic import TypeAdapter  # slow to import

    return TypeAdapter(schema)
