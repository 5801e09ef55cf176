"""A run beside others: which numbers, under which names, from which results."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from temporal_sae.assets import REFERENCE
from temporal_sae.metrics import CORE_SECTION, TASKS_SECTION, TRAINING_SECTION, Metric, declared
from temporal_sae.report.neighbours import neighbours

LETTERS = "ABCDEFGH"
REFERENCE_CAVEAT = (
    "The reference runs are on google/gemma-2-2b, layer 12, with contexts of 128 tokens; another "
    "model's numbers show where a run stands, not which method is better. Their published "
    "explained variance is the older per-batch value, here `explained_variance_legacy`."
)
# What is trained, which is no metric.
FACTS = tuple(
    Metric(name=name, sections=(TRAINING_SECTION,), groups=(group,), label=label, form="{:,}")
    for name, group, label in (
        ("dict_size", "config", "latents"),
        ("k", "config", "k"),
        ("training_steps", "final_info", "steps"),
    )
)


class Comparison(NamedTuple):
    """A table, and what its columns are."""

    header: list[str]
    rows: list[list[str]]
    legend: list[str]


def comparison(folder: Path, results: dict[str, Any], reference: bool = False) -> Comparison:
    """Return a run's metrics beside its neighbours' and, for their model, the reference runs'.

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
    metrics = (m for m in declared() if m.label and m.sections != (TASKS_SECTION,))
    rows = [
        [metric.label, *(metric.shown(run) for run in columns.values())]
        for metric in (*FACTS, *metrics)
        if metric.of(results) is not None
    ]
    return Comparison(["metric", *columns], rows, legend)


def is_of_reference_model(results: dict[str, Any]) -> bool:
    """Return whether a run is on the language model of the reference runs."""
    return str(training_config(results).get("lm_name")).split("/")[-1] == "gemma-2-2b"


@cache
def reference_results() -> dict[str, dict[str, Any]]:
    """Return the published runs on gemma-2-2b, layer 12, by name.

    What they call `explained_variance` is `explained_variance_legacy` today, and moves there.
    """
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(REFERENCE.glob("*.json"))}
    for run in runs.values():
        quality = run[CORE_SECTION]["metrics"]["reconstruction_quality"]
        quality["explained_variance_legacy"] = quality.pop("explained_variance")
    return runs


def training_config(results: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the training, empty where the results have none."""
    sections = [section for name, section in results.items() if name.startswith(TRAINING_SECTION)]
    return as_dict(as_dict(sections[0] if sections else None).get("config"))


def as_dict(value: Any) -> dict[str, Any]:
    """Return what a file has at some place, empty where that is no mapping."""
    return value if isinstance(value, dict) else {}
