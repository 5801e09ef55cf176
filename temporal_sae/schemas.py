"""What the files must hold that this package reads back, in one place.

A run's folder is the only channel between a run, sweeps, evaluations and reports, and its files may
be damaged or made by anybody. Whoever reads one names the part of it that is relied on; more may be
there, and stays. What does not fit is one line.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeVar

from typing_extensions import TypedDict  # pydantic knows that of typing from Python 3.12 on

from temporal_sae.errors import RunError, one_line
from temporal_sae.files import parse_json, read_json

T = TypeVar("T")
Number = float | None  # JSON has no NaN: where there is none, it says null


class RunRecord(TypedDict):
    """`run.json`, as far as a run of any state has it."""

    status: Literal["running", "stopped", "failed", "finished"]
    config: dict[str, Any]
    reason: NotRequired[str | None]


class Component(TypedDict):
    """A group of the config."""

    _target_: str


class RunConfig(TypedDict):
    """The config in `run.json`, as far as an SAE is judged by it."""

    model: Component
    data: Component
    activations: Component


class TrainedRecord(TypedDict):
    """`run.json` of a run that has results."""

    status: Literal["running", "stopped", "failed", "finished"]
    config: RunConfig
    seed: int


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
    """What was trained."""

    dict_class: str
    lm_name: str
    submodule_name: str
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
    """`eval/tasks_*.json`, and the section of `results.json` that is made of them."""

    options: dict[str, Any]
    details: dict[str, Any]
    intervals: dict[str, list[Number] | None]
    scores: dict[str, Number]


class CoreScores(TypedDict):
    """`eval/core.json`, and the section of `results.json` that it is."""

    metrics: dict[str, dict[str, Number]]


class Scores(TypedDict, total=False):
    """The section of `results.json` of any other evaluation."""

    metrics: dict[str, Any]
    eval_result_metrics: dict[str, Any]


# By the beginning of a section's name.
SECTIONS = {
    "training results for layer": Training,
    "co-activation results": CoActivation,
    "cost": Cost,
    "tasks results": TaskScores,
    "core evaluation results": CoreScores,
}


class SAEBenchRecord(TypedDict):
    """`eval/saebench_*.json`."""

    eval_config: dict[str, Any]
    eval_result_metrics: dict[str, dict[str, Any]]
    eval_result_unstructured: NotRequired[dict[str, Any] | None]
    eval_result_details: NotRequired[list[dict[str, Any]] | None]


class SAELensFacts(TypedDict, total=False):
    """Where an SAE of SAELens or of this package belongs."""

    model_name: str | None
    hook_name: str | None
    context_size: int | None
    prepend_bos: bool | None


class SAELensConfig(SAELensFacts, total=False):
    """`cfg.json` of an SAE; before SAELens 6 the facts were not apart from the rest."""

    metadata: SAELensFacts | None


class DictionaryLearningTrainer(TypedDict, total=False):
    """What dictionary_learning has trained."""

    lm_name: str | None
    submodule_name: str | None


class DictionaryLearningBuffer(TypedDict, total=False):
    """On which activations."""

    ctx_len: int | None


class DictionaryLearningConfig(TypedDict, total=False):
    """`config.json` of dictionary_learning; sparsify's file of that name has neither."""

    trainer: DictionaryLearningTrainer | None
    buffer: DictionaryLearningBuffer | None


class NotedJob(TypedDict):
    """A job in `sweep.json`."""

    number: int
    folder: str
    overrides: list[str]
    slurm_job: NotRequired[str | None]
    reason: NotRequired[str | None]


class SweepNote(TypedDict):
    """`sweep.json`."""

    command: str
    launcher: str
    jobs: list[NotedJob]


class SlurmOutcome(TypedDict):
    """`outcome.json` of a SLURM job."""

    reason: str | None
    objective: NotRequired[Number]
    refused: NotRequired[bool]


class MetricsLine(TypedDict):
    """A line of `metrics.jsonl`; its other entries are numbers, which may be NaN."""

    step: int
    loss: NotRequired[Number]
    tokens_per_second: NotRequired[Number]


def read(path: Path, schema: type[T]) -> T:
    """The content of a JSON file, of which at least what `schema` says is as it says.

    Raises:
        FileNotFoundError: there is none.
        RunError: it cannot be read or does not fit; in one line with its path.
    """
    content = read_json(path)
    if problem := misfit(content, schema):
        raise RunError(f"{path}: cannot be read ({problem})")
    fitting: T = content
    return fitting


def read_results(path: Path) -> dict[str, Any]:
    """`results.json`, with every section checked.

    Raises: as `read`.
    """
    results = read(path, dict[str, dict[str, Any]])
    for name, section in results.items():
        schema = next((s for start, s in SECTIONS.items() if name.startswith(start)), Scores)
        if problem := misfit(section, schema):
            raise RunError(f"{path}: cannot be read ({one_line(name)}.{problem})")
    return results


def metrics_of(line: bytes) -> MetricsLine | None:
    """A line of `metrics.jsonl`; None for one that is broken."""
    try:
        content = parse_json(line)
    except ValueError:
        return None
    if misfit(content, MetricsLine):
        return None
    metrics: MetricsLine = content
    return metrics


def misfit(content: Any, schema: Any) -> str | None:
    """Where and how `content` does not fit, in one line; None where it does."""
    from pydantic import ValidationError  # slow to import

    try:
        _checker(schema).validate_python(content, strict=True, extra="allow")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        said = str(first["msg"]).removeprefix("Input should be ")
        shown = json.dumps(first["input"], default=str)[:60]
        return one_line(f"{place}={shown}: must be {said}" if place else f"must be {said}")
    return None


@cache
def _checker(schema: Any) -> Any:
    from pydantic import TypeAdapter  # slow to import

    return TypeAdapter(schema)
