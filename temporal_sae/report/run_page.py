"""`report.html` of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from temporal_sae.errors import printable
from temporal_sae.report.comparison import as_dict
from temporal_sae.report.figures import Figure, Line, Lines
from temporal_sae.report.pages import render
from temporal_sae.report.run_facts import FILES, RunFacts, numbers_in
from temporal_sae.report.series import STABILITY, TRAINING, Panel, chart_lines, read_series
from temporal_sae.report.tables import Table

TOKENS, OVERLAPS = "tokens", "top_pairs_overlap_by_windows"
GROWTH = Table(
    "growth",
    "How it grows with F latents, k active ones, windows of W tokens",
    ["component", "time", "memory"],
    [
        ["language model", "tokens", "its weights; one batch of sequences"],
        [
            "SAE",
            "F · d_in for every token (encoder) and every step (Adam); k · d_in for the rest",
            "8 · F · d_in floats: weights, gradients, two moments",
        ],
        [
            "tracker",
            "k² / 2 pairs for every token; folded once in W tokens",
            "F² / 2 averages, or the pairs that occurred; W · k latents",
        ],
        [
            "penalty",
            "sampled tokens · k² · d_in for every step",
            "F · d_in floats, and pairs in blocks of a fixed size",
        ],
    ],
    [],
)


def figures_of(facts: RunFacts) -> tuple[list[Figure], list[Figure]]:
    """Return the figures on the training, and on what the tracker saw."""
    series = read_series(facts.folder)
    return figures(TRAINING, series), [*figures(STABILITY, series), *overlaps(facts)]


def page_of_unfinished(folder: Path, record: dict[str, Any]) -> str:
    """Return the page of a run that has no results yet: its state, and what was logged until now.

    Args:
        folder: of the run.
        record: the content of its `run.json`.
    """
    series = read_series(folder)
    reason = f": {record['reason']}" if record.get("reason") else ""
    return render(
        "unfinished.html",
        title=printable(folder.resolve().name),
        status=status_of(record),
        state=printable(f"{record.get('status', 'unknown')}{reason}"),
        command=printable(str(record.get("command") or "")),
        training=figures(TRAINING, series),
        stability=figures(STABILITY, series),
    )


def page_of(facts: RunFacts) -> str:
    """Return the page of a run."""
    training, stability = figures_of(facts)
    return render(
        "run.html",
        title=printable(facts.folder.resolve().name),
        facts=facts,
        status=status_of(facts.record),
        training=training,
        stability=stability,
        growth=GROWTH,
        has_atlas=(facts.folder / "atlas" / "index.html").is_file(),
        files=[(name, what) for name, what in FILES.items()],
    )


def figures(panels: Sequence[Panel], series: dict[str, Line]) -> list[Figure]:
    """Return the charts of what was logged."""
    found = []
    for panel in panels:
        if lines := chart_lines(panel, series):
            label = f"{panel.title}, over the tokens of the training"
            found.append(Figure(panel.title, Lines(label, lines, TOKENS), panel.says))
    return found


def overlaps(facts: RunFacts) -> list[Figure]:
    """Return the chart of how fast the most frequent pairs change, if the tracker saw enough."""
    found = numbers_in(facts.results.get("co-activation results", {}).get(OVERLAPS))
    known = sorted((int(lag), value) for lag, value in found.items() if lag.isdecimal())
    if len(known) < 2:
        return []
    line = Line("overlap", [0.0, *(float(lag) for lag, _ in known)], [1.0, *(v for _, v in known)])
    title = "Overlap of the top 200 pairs with those some windows later"
    return [Figure(title, Lines(title, [line], "windows", from_zero=True))]


def status_of(record: dict[str, Any]) -> str:
    """Return when a run was begun, with what, and how it failed, if it did."""
    versions = as_dict(record.get("versions"))
    is_failed = record.get("status") == "failed"
    parts = [
        f"failed: {record.get('reason')}" if is_failed else "",
        f"started {record.get('started', 'at an unknown time')}",
        f"on {record.get('device', 'an unknown device')}",
        f"temporal_sae {versions.get('temporal_sae', '')}",
        f"revision {str(record['git_revision'])[:10]}" if record.get("git_revision") else "",
    ]
    return printable(" · ".join(part for part in parts if part.strip()))
