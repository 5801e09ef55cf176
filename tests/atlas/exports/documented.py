"""The tables of Neuronpedia and the file of SAEDashboard, as their documents describe them."""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from datetime import datetime


@dataclass
class Feature:
    modelId: str
    layer: str
    index: str
    creatorId: str | None
    createdAt: datetime
    maxActApprox: float | None
    hasVector: bool
    vector: list[float]
    vectorLabel: str | None
    vectorDefaultSteerStrength: float | None
    hookName: str | None
    topkCosSimIndices: list[int]
    topkCosSimValues: list[float]
    neuron_alignment_indices: list[int]
    neuron_alignment_values: list[float]
    neuron_alignment_l1: list[float]
    correlated_neurons_indices: list[int]
    correlated_neurons_pearson: list[float]
    correlated_neurons_l1: list[float]
    correlated_features_indices: list[int]
    correlated_features_pearson: list[float]
    correlated_features_l1: list[float]
    neg_str: list[str]
    neg_values: list[float]
    pos_str: list[str]
    pos_values: list[float]
    frac_nonzero: float
    freq_hist_data_bar_heights: list[float]
    freq_hist_data_bar_values: list[float]
    logits_hist_data_bar_heights: list[float]
    logits_hist_data_bar_values: list[float]
    decoder_weights_dist: list[float]
    sourceSetName: str | None
    umap_x: float | None
    umap_y: float | None
    umap_cluster: int | None
    umap_log_feature_sparsity: float | None


@dataclass
class Activation:
    id: str
    tokens: list[str]
    index: str
    layer: str
    modelId: str
    maxValue: float
    maxValueTokenIndex: int
    minValue: float
    values: list[float]
    creatorId: str
    dataSource: str | None
    dataIndex: str | None
    dfaValues: list[float]
    dfaTargetIndex: int | None
    dfaMaxValue: float | None
    lossValues: list[float]
    logitContributions: str | None
    binMin: float | None
    binMax: float | None
    binContains: float | None
    qualifyingTokenIndex: int | None


@dataclass
class Source:
    id: str
    modelId: str
    setName: str
    creatorId: str
    hasDashboards: bool
    inferenceEnabled: bool
    saelensConfig: dict | None
    saelensRelease: str | None
    saelensSaeId: str | None
    hfRepoId: str | None
    hfFolderId: str | None
    visibility: str
    hasUmap: bool
    hasUmapLogSparsity: bool
    hasUmapClusters: bool
    num_prompts: int | None
    num_tokens_in_prompt: int | None
    dataset: str | None
    notes: str | None
    createdAt: datetime


@dataclass
class Explanation:
    id: str
    modelId: str
    layer: str
    index: str
    description: str
    authorId: str
    typeName: str | None
    explanationModelName: str | None
    notes: str | None
    scoreV2: float | None


@dataclass
class SourceSet:
    modelId: str
    name: str
    creatorId: str
    creatorName: str
    releaseName: str | None
    description: str
    visibility: str
    showCorrelated: bool
    urls: list[str]
    createdAt: datetime


@dataclass
class Model:
    id: str
    displayNameShort: str
    displayName: str
    creatorId: str
    visibility: str
    layers: int
    neuronsPerLayer: int
    owner: str
    createdAt: datetime
    updatedAt: datetime


@dataclass
class Release:
    name: str
    description: str
    descriptionShort: str | None
    creatorId: str
    creatorName: str
    creatorNameShort: str | None
    urls: list[str]
    visibility: str
    createdAt: datetime


@dataclass
class DashboardActivation:
    bin_min: float
    bin_max: float
    bin_contains: float
    tokens: list[str]
    values: list[float]
    qualifying_token_index: int


@dataclass
class DashboardFeature:
    feature_index: int
    neuron_alignment_indices: list[int]
    neuron_alignment_values: list[float]
    neuron_alignment_l1: list[float]
    correlated_neurons_indices: list[int]
    correlated_neurons_l1: list[float]
    correlated_neurons_pearson: list[float]
    correlated_features_indices: list[int]
    correlated_features_l1: list[float]
    correlated_features_pearson: list[float]
    neg_str: list[str]
    neg_values: list[float]
    pos_str: list[str]
    pos_values: list[float]
    frac_nonzero: float
    freq_hist_data_bar_values: list[float]
    freq_hist_data_bar_heights: list[float]
    logits_hist_data_bar_heights: list[float]
    logits_hist_data_bar_values: list[float]
    n_prompts_total: int
    n_tokens_in_prompt: int
    dataset: str
    decoder_weights_dist: list[float]
    activations: list[DashboardActivation]
    vector: list[float]


@dataclass
class DashboardBatch:
    model_id: str
    layer: int
    sae_set: str
    sae_id_suffix: str | None
    features: list[DashboardFeature]


def read(kind, value):
    """A value of JSON as a type: no field too many or too few, and every one of its type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else read(arguments[0], value)
    if origin is list:
        assert type(value) is list
        return [read(arguments[0], item) for item in value]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        assert value.keys() == hints.keys()
        return kind(**{name: read(hint, value[name]) for name, hint in hints.items()})
    if kind is datetime:
        return datetime.fromisoformat(value)
    assert type(value) is kind, f"{value!r} is no {kind}"
    return value


def read_lines(kind, text):
    """The rows of JSON lines."""
    return [read(kind, json.loads(line, parse_constant=no_constant)) for line in text.splitlines()]


def no_constant(name):
    """Refuse NaN and Infinity, which are no JSON."""
    raise AssertionError(name)
