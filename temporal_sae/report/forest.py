"""A forest plot of a comparison: for each metric the difference of every arm with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from temporal_sae.errors import RunError, printable
from temporal_sae.files import write_atomically
from temporal_sae.report.compare import Compared
from temporal_sae.report.compare_table import order_of
from temporal_sae.report.png import DOTS_PER_INCH, SHADE, needs_matplotlib
from temporal_sae.report.rule import Judged
from temporal_sae.report.verdict import is_headline

MOST_PANELS = 6
WIDTH, ROW, AROUND = 2.6, 0.24, 0.9  # inches: of a panel, of an arm, and above and below


def write_forest(compared: Compared, path: Path) -> Path:
    """Write a panel for the primary metric and each headline metric; returns the path.

    Raises:
        RunError: matplotlib is not installed, or the folder of the file is not there.
    """
    drawing_of = needs_matplotlib()
    if not path.parent.is_dir():
        raise RunError(f"--png={path}: there is no such folder")
    panels = panels_of(compared)
    height = AROUND + ROW * max(len(rows) for rows in panels)
    drawing = drawing_of(figsize=(1.5 + WIDTH * len(panels), height), layout="constrained")
    for axes, rows in zip(drawing.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes, rows, with_arms=axes is drawing.axes[0] and compared.has_arms)
    buffer = BytesIO()
    drawing.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
    return path


def panels_of(compared: Compared) -> list[list[Judged]]:
    """Return the rows of each metric that is drawn: headlines that vary, or else the first ones."""
    by_metric: dict[str, list[Judged]] = {}
    for place in order_of(compared.rows):
        found = compared.rows[place]
        by_metric.setdefault(found.row.metric, []).append(found)
    vary = [own for own in by_metric.values() if any(found.row.test.deviation > 0 for found in own)]
    chosen = [rows for rows in vary if rows[0].primary or is_headline(rows[0])]
    return (chosen or list(by_metric.values()))[:MOST_PANELS]


def draw(axes: Any, rows: Sequence[Judged], with_arms: bool) -> None:
    """Draw a metric: a point and a bar for each arm, filled where the difference is clear."""
    for height, found in enumerate(rows):
        test = found.row.test
        if not math.isnan(test.low):
            axes.plot([test.low, test.high], [height, height], color=SHADE, lw=1.2)
        face = SHADE if found.clear else "white"
        axes.plot(test.mean, height, "o", ms=4.5, mfc=face, mec=SHADE)
    axes.axvline(0, color="grey", lw=0.6)
    axes.locator_params(axis="x", nbins=4)
    axes.set_yticks(range(len(rows)), [printable(f.arm) for f in rows] if with_arms else [])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    primary = " (primary)" if rows[0].primary else ""
    axes.set_title(printable(rows[0].row.name) + primary, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right", "left"]].set_visible(False)
