"""A run beside others: which numbers, under which names, from which results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from temporal_sae.assets import REFERENCE
from temporal_sae.report.neighbours import neighbours

DASH = "–"
LETTERS = "ABCDEFGH"
REFERENCE_CAVEAT = (
    "The reference runs are on google/gemma-2-2b, layer 12, with contexts of 128 tokens; another "
    "model's numbers show where a run stands, not which method is better. Their published "
    "explained variance is the older per-batch value, here `explained_variance_legacy`."
)
CORE = "core evaluation results"
PROBING = "sparse probing evaluation results"
ABSORPTION = "absorption evaluation results"
UNLEARNING = "unlearning evaluation results"
# Sections that go by several names, with one that is the same for every run.
NAMES = {
    "training": ("training results for layer",),
    "scr": ("scr and tpp evaluations results", "scr evaluations results"),
    "tpp": ("tpp evaluations results",),
}


@dataclass(frozen=True)
class Row:
    """One metric: its name, where it stands, and how it is printed."""

    name: str
    path: tuple[str, ...]
    form: str = "{:.3f}"

    def of(self, results: dict[str, Any]) -> str:
        """The metric of one run as text, a dash where it was not measured."""
        value: Any = results
        for key in self.path:
            value = value.get(key) if isinstance(value, dict) else None
        return self.form.format(value) if isinstance(value, (int, float)) else DASH


def core(name: str, group: str, key: str, form: str = "{:.3f}") -> Row:
    """A row of the core evaluation."""
    return Row(name, (CORE, "metrics", group, key), form)


def saebench(name: str, section: str, group: str, key: str) -> Row:
    """A row of another evaluation of SAEBench."""
    return Row(name, (section, "eval_result_metrics", group, key))


ROWS = (
    Row("latents", ("training", "config", "dict_size"), "{:,}"),
    Row("k", ("training", "config", "k"), "{:,}"),
    Row("steps", ("training", "final_info", "training_steps"), "{:,}"),
    core("CE score", "model_performance_preservation", "ce_loss_score"),
    core("KL score", "model_behavior_preservation", "kl_div_score"),
    core("explained variance", "reconstruction_quality", "explained_variance"),
    core("the same, legacy", "reconstruction_quality", "explained_variance_legacy"),
    core("cosine", "reconstruction_quality", "cossim"),
    core("L2 ratio", "shrinkage", "l2_ratio"),
    core("reconstruction bias", "shrinkage", "relative_reconstruction_bias"),
    core("L0", "sparsity", "l0", "{:.1f}"),
    core("dead latents", "misc_metrics", "dead_share", "{:.1%}"),
    core("latents on > 10 %", "misc_metrics", "freq_over_10_percent", "{:.1%}"),
    saebench("probe on activations", PROBING, "llm", "llm_test_accuracy"),
    saebench("probe on 1 latent", PROBING, "sae", "sae_top_1_test_accuracy"),
    saebench("probe on 5 latents", PROBING, "sae", "sae_top_5_test_accuracy"),
    saebench("SCR, 20 latents", "scr", "scr_metrics", "scr_metric_threshold_20"),
    saebench("TPP, 20 latents", "tpp", "tpp_metrics", "tpp_threshold_20_total_metric"),
    saebench("absorption (lower)", ABSORPTION, "mean", "mean_absorption_score"),
    saebench("unlearning", UNLEARNING, "unlearning", "unlearning_score"),
)


class Comparison(NamedTuple):
    """A table, and what its columns are."""

    header: list[str]
    rows: list[list[str]]
    legend: list[str]


def comparison(folder: Path, results: dict[str, Any], reference: bool = False) -> Comparison:
    """What a run has measured, beside its neighbours' and, for their model, the reference runs'.

    Args:
        folder: of the run.
        results: of the run.
        reference: beside the reference runs, whatever the model.
    """
    columns, legend = {"this run": results}, []
    for letter, other in zip(LETTERS, neighbours(folder, results), strict=False):
        columns[letter] = other.results
        what = f": the same without {other.lacks}" if other.lacks else ""
        legend.append(f"{letter} is {other.name}{what}")
    if reference or is_of_reference_model(results):
        columns |= {name.replace("_", " "): run for name, run in reference_results().items()}
        legend.append(REFERENCE_CAVEAT)
    runs = [with_short_names(run) for run in columns.values()]
    rows = [[row.name, *(row.of(run) for run in runs)] for row in ROWS if row.of(runs[0]) != DASH]
    return Comparison(["metric", *columns], rows, legend)


def is_of_reference_model(results: dict[str, Any]) -> bool:
    """Whether a run is on the language model of the reference runs."""
    config = with_short_names(results)["training"].get("config", {})
    return str(config.get("lm_name")).split("/")[-1] == "gemma-2-2b"


@cache
def reference_results() -> dict[str, dict[str, Any]]:
    """The published runs on gemma-2-2b, layer 12, by name.

    What they call `explained_variance` is `explained_variance_legacy` today, and moves there.
    """
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(REFERENCE.glob("*.json"))}
    for run in runs.values():
        quality = run[CORE]["metrics"]["reconstruction_quality"]
        quality["explained_variance_legacy"] = quality.pop("explained_variance")
    return runs


def with_short_names(results: dict[str, Any]) -> dict[str, Any]:
    """The results with the sections of NAMES under one name, empty where there is none."""
    short: dict[str, Any] = {}
    for name, starts in NAMES.items():
        found = [value for key, value in results.items() if key.startswith(starts)]
        short[name] = found[0] if found else {}
    return {**results, **short}
