"""SAEBench's records as the sections of `results.json`, beside what was published.

The reference results are of January 2025. Sections have their names and every key of theirs; where
SAEBench has changed a definition since, `comparability` says which value compares with which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from temporal_sae.eval import behavior, reconstruction
from temporal_sae.eval.latent_use import LatentUse
from temporal_sae.eval.saebench.options import CHOICES
from temporal_sae.metrics import CORE_SECTION, Metric, declare

Record = dict[str, Any]
SCR = "scr evaluations results"
SCR_AND_TPP = "scr and tpp evaluations results"  # of the baselines, with the metrics of both
SECTIONS = {
    "tpp": "tpp evaluations results",
    "sparse_probing": "sparse probing evaluation results",
    "absorption": "absorption evaluation results",
    "unlearning": "unlearning evaluation results",
    "autointerp": "autointerp evaluation results",
    "ravel": "ravel evaluation results",
    "sae_probes": "sae probes evaluation results",
}


def metrics_in(group: str, *sections: str) -> Callable[..., Metric]:
    """Return what declares metrics of a group in SAEBench's records."""
    return partial(Metric, sections=sections, groups=("eval_result_metrics", group))


OF_PROBING = metrics_in("sae", SECTIONS["sparse_probing"])
OF_SCR = metrics_in("scr_metrics", SCR_AND_TPP, SCR)
OF_TPP = metrics_in("tpp_metrics", SECTIONS["tpp"])
OF_ABSORPTION = partial(metrics_in("mean", SECTIONS["absorption"]), better="lower")
# What `objective` may name beside the core metrics.
OWN = declare(
    Metric(
        name="mse_per_element",
        sections=(CORE_SECTION,),
        groups=("metrics", "reconstruction_quality"),
        better="lower",
    ),
    OF_PROBING(name="sae_test_accuracy", better="higher"),
    *(
        OF_PROBING(
            name=f"sae_top_{k}_test_accuracy",
            better="higher",
            label={1: "probe on 1 latent", 5: "probe on 5 latents"}.get(k, ""),
        )
        for k in CHOICES["k_values"]
    ),
    *(
        of(name=name.format(n), better="higher", label=f"{label}, 20 latents" if n == 20 else "")
        for of, name, label in (
            (OF_SCR, "scr_metric_threshold_{}", "SCR"),
            (OF_TPP, "tpp_threshold_{}_total_metric", "TPP"),
        )
        for n in CHOICES["n_values"]
    ),
    OF_ABSORPTION(name="mean_absorption_fraction_score"),
    OF_ABSORPTION(name="mean_full_absorption_score"),
    OF_ABSORPTION(name="mean_absorption_score", compared=False, label="absorption (lower)"),
    *(
        metrics_in(group, SECTIONS[group])(name=name, better="higher", label=label)
        for group, name, label in (
            ("unlearning", "unlearning_score", "unlearning"),
            ("autointerp", "autointerp_score", ""),
            ("ravel", "disentanglement_score", ""),
        )
    ),
)
# What else its records hold; `llm_…` is the language model's own, `std_dev_…` no score.
declare(
    metrics_in("llm", SECTIONS["sparse_probing"])(
        name="llm_test_accuracy", compared=False, label="probe on activations"
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
AS_THEN, NONE_THEN = (True, "defined as then"), (False, "January's files have none")
# Whether a metric compares with January's of its name, and what does if not.
COMPARABILITY = {
    "core": {
        "model_behavior_preservation": AS_THEN,
        "model_performance_preservation": AS_THEN,
        "explained_variance": (
            False,
            "the textbook value; January's explained_variance is explained_variance_legacy here",
        ),
        "explained_variance_legacy": (
            True,
            "compares with January's explained_variance: the mean over tokens of 1 - ‖x - x̂‖² / "
            "‖x - mean of the batch‖²",
        ),
        "explained_variance_saebench": (
            False,
            "SAEBench's explained_variance since, whose variance is nearly about zero: too high",
        ),
        "mse": (
            True,
            "SAEBench divides by the tokens of a batch: {tokens} here, 2048 in January's files; "
            "mse_per_element does not depend on the batch",
        ),
        "cossim, shrinkage, sparsity": AS_THEN,
        "misc_metrics": NONE_THEN,
    },
    "sparse_probing": {"llm, sae": AS_THEN},
    "scr": {
        "scr_metrics": (
            False,
            "a pair whose probes differ by less than 0.001 counts as 0 since January{ties}",
        )
    },
    "absorption": {
        "mean_absorption_score": (
            False,
            "mean_full_absorption_score under January's name: prompts and probes have changed "
            "since, so that only its size compares",
        ),
        "mean_full_absorption_score": (False, "see mean_absorption_score"),
        "mean_absorption_fraction_score": NONE_THEN,
        "mean_num_split_features": (False, "prompts and probes have changed"),
    },
    "unlearning": {
        "unlearning_score": (
            False,
            "compares if corpus, question ids and the options of the sweep are January's",
        )
    },
}
LOWER = ("mse", *COMPARABILITY["absorption"])


def sections(records: Mapping[str, Record]) -> dict[str, Any]:
    """Return sections of `results.json` from the records of some evaluations, by name."""
    found: dict[str, Any] = {}
    if "core" in records:
        found[CORE_SECTION] = core_section(records["core"])
    if "scr" in records:
        scr = {**records["scr"], "comparability": comparability("scr", records["scr"])}
        if "tpp" in records:
            added = records["tpp"]["eval_result_metrics"]
            scr["eval_result_metrics"] = {**scr["eval_result_metrics"], **added}
        found[SCR_AND_TPP if "tpp" in records else SCR] = scr
    for name in (name for name in SECTIONS if name in records):
        record = with_old_names(records[name]) if name == "absorption" else records[name]
        found[SECTIONS[name]] = {**record, "comparability": comparability(name, record)}
    return found


def core_section(record: Record) -> dict[str, Any]:
    """Return the core record as the reference files have it.

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
        "comparability": comparability("core", record),
    }


def with_old_names(record: Record) -> Record:
    """Return the absorption record with January's names beside today's."""
    mean, *details = (
        values | {old: values[new] for new, old in NAMES_OF_JANUARY.items() if new in values}
        for values in (record["eval_result_metrics"]["mean"], *record["eval_result_details"])
    )
    metrics = {**record["eval_result_metrics"], "mean": mean}
    return {**record, "eval_result_metrics": metrics, "eval_result_details": details}


def comparability(name: str, record: Record) -> list[dict[str, Any]]:
    """Return which metrics of an evaluation compare with January's, and why not."""
    config, ties = record.get("eval_config") or {}, ""
    tokens = config.get("batch_size_prompts", 0) * config.get("context_size", 0)
    if tied := (record.get("eval_result_unstructured") or {}).get("tied_pairs", []):
        ties = f"; left out of scr_metric because both directions tie: {', '.join(tied)}"
    return [
        {
            "metric": metric,
            "compares": compares and (metric != "mse" or tokens == 2048),
            "better": "lower" if metric in LOWER else "higher",
            "why": why.format(tokens=tokens, ties=ties),
        }
        for metric, (compares, why) in COMPARABILITY.get(name, {"all": NONE_THEN}).items()
    ]
