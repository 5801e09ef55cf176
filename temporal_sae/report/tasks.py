"""What the tasks on labelled snippets found, as a table with intervals."""

from __future__ import annotations

from typing import Any

SECTION = "tasks results"
SHOWN = {
    "sparse_probing_package_sae_top_1": "package of a snippet, by a probe on 1 latent (accuracy)",
    "sparse_probing_package_sae_top_5": "… on 5 latents",
    "sparse_probing_package_llm_top_5": "… on 5 dimensions of the activations",
    "sparse_probing_package_llm_all": "… on all dimensions of the activations",
    "sparse_probing_kind_sae_top_1": "code, docstring or comment, by a probe on 1 latent",
    "sparse_probing_kind_sae_top_5": "… on 5 latents",
    "sparse_probing_kind_llm_all": "… on all dimensions of the activations",
    "scr_metric_threshold_20": "SCR, 20 latents ablated (1: the spurious attribute is gone)",
    "tpp_total_threshold_20": "TPP, 20 latents ablated (accuracy lost on the class alone)",
    "absorption_full": "absorption of first letters, full (lower is better)",
    "absorption_fraction": "absorption of first letters, fraction (lower is better)",
    "absorption_letters": "letters that the model knows, on which this was measured",
    "absorption_shape_full": "absorption of a leading space or capital, full",
    "absorption_shape_fraction": "absorption of a leading space or capital, fraction",
    "downstream_selectivity": "cross-entropy that ablating a kind's latents costs it beyond others",
    "downstream_control_selectivity": "… with as many latents drawn at random",
}


def tasks_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(column names, rows) of the scores that are there; no rows where no task was done."""
    section = results.get(SECTION, {})
    scores, intervals = section.get("scores", {}), section.get("intervals", {})
    rows = [
        [meaning, f"`{name}`", form(scores[name]), interval(intervals.get(name))]
        for name, meaning in SHOWN.items()
        if name in scores
    ]
    return ["task", "name", "score", "95 % interval"], rows


def interval(bounds: list[float | None] | None) -> str:
    """`low to high`, a dash where there is none."""
    if not bounds or None in bounds:
        return "–"
    return " to ".join(form(bound) for bound in bounds)


def form(value: float | None) -> str:
    """Three decimals; numbers of things as they are."""
    if value is None:
        return "–"
    return str(int(value)) if value > 1 and float(value).is_integer() else f"{value:.3f}"
