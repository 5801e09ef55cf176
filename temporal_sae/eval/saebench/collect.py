"""SAEBench's records as the sections of `results.json`, beside what was published.

The reference results are of January 2025. Sections have their names and every key of theirs; where
SAEBench has changed a definition since, `comparability` says which value compares with which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = dict[str, Any]
CORE = "core evaluation results"
SCR, TPP, SCR_AND_TPP = (
    "scr evaluations results",
    "tpp evaluations results",
    "scr and tpp evaluations results",
)
SECTIONS = {
    "sparse_probing": "sparse probing evaluation results",
    "absorption": "absorption evaluation results",
    "unlearning": "unlearning evaluation results",
    "autointerp": "autointerp evaluation results",
    "ravel": "ravel evaluation results",
    "sae_probes": "sae probes evaluation results",
}
# What `objective` may name. Absorption is better when lower.
METRIC_NAMES = (
    "ce_loss_score",
    "kl_div_score",
    "explained_variance",
    "explained_variance_legacy",
    "mse",
    "mse_per_element",
    "cossim",
    "l2_ratio",
    "l0",
    "l1",
    "frac_alive",
    "sae_test_accuracy",
    *(f"sae_top_{k}_test_accuracy" for k in (1, 2, 5, 10, 20, 50, 100)),
    *(f"scr_metric_threshold_{n}" for n in (2, 5, 10, 20, 50, 100, 500)),
    *(f"tpp_threshold_{n}_total_metric" for n in (2, 5, 10, 20, 50, 100, 500)),
    "mean_absorption_fraction_score",
    "mean_full_absorption_score",
    "mean_absorption_score",
    "unlearning_score",
    "autointerp_score",
    "disentanglement_score",
)
NAMES_OF_JANUARY = {  # today's name of what a January file calls otherwise
    "mean_full_absorption_score": "mean_absorption_score",
    "full_absorption_rate": "absorption_rate",
    "num_full_absorption": "num_absorption",
}


def sections(records: Mapping[str, Record]) -> dict[str, Any]:
    """Sections of `results.json` from the records of some evaluations, by name.

    SCR alone has a section of its own; with TPP it is that of the baselines, with the metrics of
    both.
    """
    found: dict[str, Any] = {}
    if "core" in records:
        found[CORE] = core_section(records["core"])
    if "scr" in records:
        scr = {**records["scr"], "comparability": scr_comparability(records["scr"])}
        if "tpp" in records:
            both = {
                **scr["eval_result_metrics"],
                **records["tpp"]["eval_result_metrics"],
            }
            scr["eval_result_metrics"] = both
        found[SCR_AND_TPP if "tpp" in records else SCR] = scr
    if "tpp" in records:
        found[TPP] = {**records["tpp"], "comparability": [UNPUBLISHED]}
    for name, section in SECTIONS.items():
        if name in records:
            record = with_old_names(records[name]) if name == "absorption" else records[name]
            found[section] = {**record, "comparability": COMPARABILITY[name]}
    return found


def core_section(record: Record) -> dict[str, Any]:
    """The core record as the reference files have it.

    `explained_variance` is the textbook 1 - Σ‖x - x̂‖² / Σ‖x - mean‖²; SAEBench's number under that
    name, whose variance is nearly about zero, is `explained_variance_saebench`.
    """
    metrics, beside = dict(record["eval_result_metrics"]), record["eval_result_unstructured"]
    quality = metrics["reconstruction_quality"]
    metrics["reconstruction_quality"] = {
        **quality,
        "explained_variance": beside["explained_variance_textbook"],
        "explained_variance_saebench": quality["explained_variance"],
        "mse_per_element": beside["mse_per_element"],
    }
    sae_set, sae_id = record["sae_lens_release_id"], record["sae_lens_id"]
    return {
        "unique_id": f"{sae_set}_{sae_id}",
        "sae_set": sae_set,
        "sae_id": sae_id,
        "eval_cfg": record["eval_config"],
        "metrics": metrics,
        "comparability": core_comparability(record["eval_config"]),
    }


def with_old_names(record: Record) -> Record:
    """The absorption record with January's names beside today's."""
    mean = _renamed(record["eval_result_metrics"]["mean"])
    return {
        **record,
        "eval_result_metrics": {**record["eval_result_metrics"], "mean": mean},
        "eval_result_details": [_renamed(detail) for detail in record["eval_result_details"]],
    }


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    old = {NAMES_OF_JANUARY[key]: values[key] for key in values if key in NAMES_OF_JANUARY}
    return {**values, **old}


def comparison(metric: str, compares: bool, why: str, better: str = "higher") -> dict[str, Any]:
    """Whether a metric compares with January's of the same name, and what does if not."""
    return {"metric": metric, "compares": compares, "better": better, "why": why}


def core_comparability(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the core metrics."""
    tokens = config["batch_size_prompts"] * config["context_size"]
    return [
        comparison("model_behavior_preservation", True, "defined as then"),
        comparison("model_performance_preservation", True, "defined as then"),
        comparison(
            "explained_variance",
            False,
            "the textbook value; January's explained_variance is explained_variance_legacy here",
        ),
        comparison(
            "explained_variance_legacy",
            True,
            "compares with January's explained_variance: the mean over tokens of 1 - ‖x - x̂‖² / "
            "‖x - mean of the batch‖²",
        ),
        comparison(
            "explained_variance_saebench",
            False,
            "SAEBench's explained_variance since, whose variance is nearly about zero: too high",
        ),
        comparison(
            "mse",
            tokens == 2048,
            f"SAEBench divides by the tokens of a batch: {tokens} here, 2048 in January's files; "
            "mse_per_element does not depend on the batch",
            "lower",
        ),
        comparison("cossim, shrinkage, sparsity", True, "defined as then"),
        comparison("misc_metrics", False, "January's files have none"),
    ]


def scr_comparability(record: Record) -> list[dict[str, Any]]:
    """Of SCR, which since January counts a pair as 0 where there is nothing to recover."""
    tied = (record.get("eval_result_unstructured") or {}).get("tied_pairs", [])
    left_out = f"; left out of scr_metric because both directions tie: {', '.join(tied)}"
    why = "a pair whose probes differ by less than 0.001 counts as 0 since January"
    return [comparison("scr_metrics", False, why + (left_out if tied else ""))]


UNPUBLISHED = comparison("all", False, "January's files have none")
COMPARABILITY: dict[str, list[dict[str, Any]]] = {
    "sparse_probing": [comparison("llm, sae", True, "defined as then")],
    "absorption": [
        comparison(
            "mean_absorption_score",
            False,
            "mean_full_absorption_score under January's name: prompts and probes have changed "
            "since, so that only its size compares",
            "lower",
        ),
        comparison("mean_full_absorption_score", False, "see mean_absorption_score", "lower"),
        comparison("mean_absorption_fraction_score", False, "January's files have none", "lower"),
        comparison("mean_num_split_features", False, "prompts and probes have changed", "lower"),
    ],
    "unlearning": [
        comparison(
            "unlearning_score",
            False,
            "compares if corpus, question ids and the options of the sweep are January's",
        )
    ],
    "autointerp": [UNPUBLISHED],
    "ravel": [UNPUBLISHED],
    "sae_probes": [UNPUBLISHED],
}
