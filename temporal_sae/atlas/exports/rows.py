"""The rows of Neuronpedia's tables and of SAEDashboard's files, by their own names.

What this package does not measure is an empty list, or null where the table has null.
"""

from __future__ import annotations

from typing import Any, TypedDict


class Shown(TypedDict):
    """All that both show of a latent beside its examples."""

    vector: list[float]
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


class Feature(Shown):
    """A line of Neuronpedia's `features/`."""

    modelId: str
    layer: str
    index: str
    creatorId: str
    createdAt: str
    maxActApprox: float
    hasVector: bool
    vectorLabel: str | None
    vectorDefaultSteerStrength: float
    hookName: str | None
    topkCosSimIndices: list[int]
    topkCosSimValues: list[float]
    sourceSetName: str
    umap_x: float | None
    umap_y: float | None
    umap_cluster: int | None
    umap_log_feature_sparsity: float | None


class Activation(TypedDict):
    """A line of `activations/`: an example."""

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
    binMin: float
    binMax: float
    binContains: float
    qualifyingTokenIndex: int


class Explanation(TypedDict):
    """A line of `explanations/`."""

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


class Source(TypedDict):
    """The line of `source.jsonl`: an SAE."""

    id: str
    modelId: str
    setName: str
    creatorId: str
    hasDashboards: bool
    inferenceEnabled: bool
    saelensConfig: dict[str, Any] | None
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
    notes: str
    createdAt: str


class SourceSet(TypedDict):
    """The line of `sourceset.jsonl`: SAEs of one kind, at several layers."""

    modelId: str
    name: str
    creatorId: str
    creatorName: str
    releaseName: str
    description: str
    visibility: str
    showCorrelated: bool
    urls: list[str]
    createdAt: str


class Model(TypedDict):
    """The line of `model.jsonl`."""

    id: str
    displayNameShort: str
    displayName: str
    creatorId: str
    visibility: str
    layers: int
    neuronsPerLayer: int
    owner: str
    createdAt: str
    updatedAt: str


class Release(TypedDict):
    """The line of `release.jsonl`."""

    name: str
    description: str
    descriptionShort: str
    creatorId: str
    creatorName: str
    creatorNameShort: str
    urls: list[str]
    visibility: str
    createdAt: str


class DashboardExample(TypedDict):
    """An example in SAEDashboard's file."""

    bin_min: float
    bin_max: float
    bin_contains: float
    tokens: list[str]
    values: list[float]
    qualifying_token_index: int


class DashboardFeature(Shown):
    """A latent in it."""

    feature_index: int
    n_prompts_total: int
    n_tokens_in_prompt: int
    dataset: str
    activations: list[DashboardExample]


class DashboardBatch(TypedDict):
    """The file."""

    model_id: str
    layer: int
    sae_set: str
    sae_id_suffix: str | None
    features: list[DashboardFeature]
