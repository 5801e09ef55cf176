"""SAEBench's records as the sections of `results.json`, beside what was published.

The reference results are of January 2025. Sections have their names and every key of theirs; where
SAEBench has changed a definition since, `comparability` says which value compares with which.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from temporal_sae.eval import behavior, reconstruction
from temporal_sae.eval.latent_use import LatentUse
from temporal_sae.metrics import CORE_SECTION, Metric, declare

Record = dict[str, Any]
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
PROBING, ABSORPTION, UNLEARNING = (
    partial(Metric, sections=(SECTIONS[name],), groups=("eval_result_metrics", group))
    for name, group in (
        ("sparse_probing", "sae"),
        ("absorption", "mean"),
        ("unlearning", "unlearning"),
    )
)
OF_SCR = partial(Metric, sections=(SCR_AND_TPP, SCR), groups=("eval_result_metrics", "scr_metrics"))
OF_TPP = partial(Metric, sections=(TPP,), groups=("eval_result_metrics", "tpp_metrics"))
OF_AUTOINTERP = partial(
    Metric, sections=(SECTIONS["autointerp"],), groups=("eval_result_metrics", "autointerp")
)
OF_RAVEL = partial(Metric, sections=(SECTIONS["ravel"],), groups=("eval_result_metrics", "ravel"))
THRESHOLDS = (2, 5, 10, 20, 50, 100, 500)
# What `objective` may name beside the core metrics.
OWN = declare(
    Metric(
        name="mse_per_element",
        sections=(CORE_SECTION,),
        groups=("metrics", "reconstruction_quality"),
        better="lower",
    ),
    PROBING(name="sae_test_accuracy", better="higher"),
    *(
        PROBING(
            name=f"sae_top_{k}_test_accuracy",
            better="higher",
            label={1: "probe on 1 latent", 5: "probe on 5 latents"}.get(k, ""),
        )
        for k in (1, 2, 5, 10, 20, 50, 100)
    ),
    *(
        OF_SCR(
            name=f"scr_metric_threshold_{n}",
            better="higher",
            label="SCR, 20 latents" if n == 20 else "",
        )
        for n in THRESHOLDS
    ),
    *(
        OF_TPP(
            name=f"tpp_threshold_{n}_total_metric",
            better="higher",
            label="TPP, 20 latents" if n == 20 else "",
        )
        for n in THRESHOLDS
    ),
    ABSORPTION(name="mean_absorption_fraction_score", better="lower"),
    ABSORPTION(name="mean_full_absorption_score", better="lower"),
    ABSORPTION(
        name="mean_absorption_score", better="lower", compared=False, label="absorption (lower)"
    ),
    UNLEARNING(name="unlearning_score", better="higher", label="unlearning"),
    OF_AUTOINTERP(name="autointerp_score", better="higher"),
    OF_RAVEL(name="disentanglement_score", better="higher"),
)
# What else its records hold; `llm_…` is the language model's own, `std_dev_…` no score.
declare(
    PROBING(
        name="llm_test_accuracy",
        groups=("eval_result_metrics", "llm"),
        compared=False,
        label="probe on activations",
    ),
    Metric(name="explained_variance*", better="higher"),
    Metric(name="*accuracy*", better="higher"),
    Metric(name="scr_*", better="higher"),
    Metric(name="tpp_*", better="higher"),
    Metric(name="*unintended_diff_only", better="lower"),
    Metric(name="cause_score", better="higher"),
    Metric(name="isolation_score", better="higher"),
    Metric(name="llm_*", compared=False),
    Metric(name="llm_*accuracy*", compared=False),
    Metric(name="std_dev_*", compared=False),
    Metric(name="total_tokens_*", compared=False),
)
METRICS = (
    *behavior.METRICS,
    *reconstruction.METRICS,
    *(m for m in LatentUse.metrics if m.name != "dead_share"),  # it has frac_alive alone
    *OWN,
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
        found[CORE_SECTION] = core_section(records["core"])
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
