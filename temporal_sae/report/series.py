"""Metrics that a run logged while it trained, as lines over the tokens it had seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from temporal_sae.errors import is_finite
from temporal_sae.report.figures import Line

METRICS = "metrics.jsonl"
MOST_POINTS = 240  # of a line: more are not told apart on the page
MOST_BYTES = 2**26  # of the file, which a run of millions of steps may exceed


class Panel(NamedTuple):
    """A chart of a few metrics of one scale.

    Attributes:
        title: of the chart.
        names: of metrics, with what they are called; a metric that was not logged is left out.
        says: a sentence on how to read it.
    """

    title: str
    names: dict[str, str]
    says: str = ""


TRAINING = (
    Panel(
        "Loss",
        {
            "loss": "loss",
            "loss_reconstruction": "reconstruction",
            "loss_sparsity": "sparsity",
            "loss_auxk": "auxiliary (dead latents)",
        },
    ),
    Panel(
        "Penalty, weighted",
        {"loss_orthogonality": "orthogonality"},
        "λ2 times the penalty, as it enters the loss.",
    ),
    Panel("Penalty over reconstruction loss", {"orthogonality_ratio": "share"}),
    Panel("Explained variance", {"explained_variance": "of the batch"}),
    Panel("Active latents in a token (L0)", {"l0": "L0"}),
    Panel("Dead latents", {"dead_share": "share"}),
    Panel("Tokens per second", {"tokens_per_second": "tokens/s"}),
    Panel("Gradient norm", {"gradient_norm": "before clipping"}),
)
STABILITY = (
    Panel(
        "Stability of frequent pairs",
        {"pair_stability": "mean of 1 − s"},
        "s is how far a pair's rate departs from its running average.",
    ),
    Panel("z of frequent pairs", {"pair_z_rms": "root mean square"}, "1 is counting noise alone."),
    Panel(
        "Co-activation that comes in bursts",
        {"bursty_share": "share"},
        "Counting noise alone makes about √(2 / windows).",
    ),
    Panel("Frequent pairs beyond 3 σ", {"pairs_beyond_3_sigma": "share"}),
    Panel(
        "Decoder directions since the last logged step",
        {"decoder_drift": "mean cosine"},
        "1 is no movement.",
    ),
)


def read_series(folder: Path) -> dict[str, Line]:
    """Return each logged metric over the tokens; lines that cannot be read are left out."""
    path = folder / METRICS
    try:
        with path.open("rb") as file:
            lines = file.read(MOST_BYTES).splitlines()
    except OSError:
        return {}
    rows = [row for line in thinned(lines) if (row := _row(line)) is not None]
    names = dict.fromkeys(name for row in rows for name in row if name not in ("tokens", "step"))
    xs = [_value(row["tokens"]) or 0.0 for row in rows]
    return {name: Line(name, xs, [_value(row.get(name)) for row in rows]) for name in names}


def thinned(lines: list[bytes]) -> list[bytes]:
    """Return lines that are about evenly spaced, the last among them.

    Of neighbours the longest is kept: some metrics are in every tenth line alone.
    """
    step = -(-len(lines) // MOST_POINTS)
    if step <= 1:
        return lines
    groups = [lines[first : first + step] for first in range(0, len(lines), step)]
    chosen = [max(group, key=len) for group in groups]
    return [*chosen[:-1], lines[-1]]


def chart_lines(panel: Panel, series: dict[str, Line]) -> list[Line]:
    """Return the lines of a panel that have a value, by what they are called."""
    found = []
    for name, called in panel.names.items():
        line = series.get(name)
        if line is not None and any(y is not None for y in line.ys):
            kept = [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if y is not None]
            found.append(Line(called, [x for x, _ in kept], [y for _, y in kept]))
    return found


def _row(line: bytes) -> dict[str, object] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and _value(row.get("tokens")) is not None else None


def _value(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and is_finite(value) else None  # type: ignore[arg-type]
