"""Scores of the tasks on labelled snippets, as a table with intervals."""

from __future__ import annotations

from typing import Any

from temporal_sae.metrics import TASKS_SECTION, declared


def tasks_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(column names, rows) of the scores that are there; no rows where no task was done."""
    section = results.get(TASKS_SECTION, {})
    scores, intervals = section.get("scores", {}), section.get("intervals", {})
    shown = [m for m in declared() if m.label and m.sections == (TASKS_SECTION,)]
    rows = [
        [m.label, f"`{m.name}`", form(scores[m.name]), interval(intervals.get(m.name))]
        for m in shown
        if m.name in scores
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
