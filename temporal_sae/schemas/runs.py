"""Schemas of what lies in a run's folder, but for its results."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic knows that of typing from Python 3.12 on

from temporal_sae.schemas.results import Number


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


class MetricsLine(TypedDict):
    """A line of `metrics.jsonl`; its other entries are numbers, which may be NaN."""

    step: int
    loss: NotRequired[Number]
    tokens_per_second: NotRequired[Number]


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


class AtlasFacts(TypedDict):
    """Facts in the metadata of `latents.parquet`, as far as they are used."""

    n_tokens: int
    min_count: NotRequired[int]
    min_z: NotRequired[float]
    title: NotRequired[str | None]
    model_name: NotRequired[str | None]
    hook_name: NotRequired[str | None]
