"""Schemas of the files of other packages."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic knows that of typing from Python 3.12 on

from temporal_sae.schemas.results import Number


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
