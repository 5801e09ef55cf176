"""Figures as PNG, for papers; drawn by matplotlib, which this alone needs."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from temporal_sae.errors import RunError
from temporal_sae.files import write_atomically
from temporal_sae.report.charts import is_shown
from temporal_sae.report.figures import Figure, Grid, Lines, Parallel, Points

SIZE = (4.6, 2.8)  # inches: two side by side fill the width of a page
DOTS_PER_INCH = 200
STYLES = ("-", "--", ":", "-.")
SHADE = "#0b655e"


def write_png(folder: Path, figures: Sequence[Figure]) -> None:
    """Write a file for every figure; parallel coordinates are for the page alone.

    Raises:
        RunError: matplotlib is not installed.
    """
    drawing_of = needs_matplotlib()
    for figure in figures:
        if isinstance(figure.chart, Parallel):
            continue
        drawing = drawing_of(figsize=SIZE, layout="constrained")
        axes = drawing.subplots()
        axes.set_title(figure.title, fontsize=9)
        match figure.chart:
            case Lines():
                draw_lines(axes, figure.chart)
            case Points():
                draw_points(axes, figure.chart)
            case Grid():
                draw_grid(axes, figure.chart)
        buffer = BytesIO()
        # Without the version and the time, so that the same figure is the same file.
        drawing.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
        write_atomically(folder / f"{figure.name}.png", buffer.getvalue())


def needs_matplotlib() -> Any:
    """Return matplotlib's class of drawings.

    Raises:
        RunError: it is not installed.
    """
    try:
        from matplotlib.figure import Figure as Drawing
    except ImportError as error:
        told = "--png: needs matplotlib; pip install 'temporal_sae[figures]'"
        raise RunError(told) from error
    return Drawing


def draw_lines(axes: Any, chart: Lines) -> None:
    """Draw lines over a common axis."""
    for n, line in enumerate(chart.lines):
        ys = [y if is_shown(y) else float("nan") for y in line.ys]
        axes.plot(line.xs, ys, STYLES[n % len(STYLES)], color=SHADE, lw=1.2, label=line.name)
    if len(chart.lines) > 1:
        axes.legend(fontsize=7, frameon=False)
    if chart.from_zero:
        axes.set_ylim(bottom=0)
    finish(axes, chart.x_label, "")


def draw_points(axes: Any, chart: Points) -> None:
    """Draw points and the lines through some of them."""
    axes.scatter([p.x for p in chart.points], [p.y for p in chart.points], s=12, color=SHADE)
    for n, line in enumerate(chart.curves):
        axes.plot(line.xs, line.ys, STYLES[n % len(STYLES)], color=SHADE, lw=0.9, label=line.name)
    if len(chart.curves) > 1:
        axes.legend(fontsize=7, frameon=False)
    finish(axes, chart.x_label, chart.y_label)


def draw_grid(axes: Any, chart: Grid) -> None:
    """Draw a grid of shaded cells with their values."""
    values = [
        [cell.value if is_shown(cell.value) else float("nan") for cell in row]
        for row in chart.cells
    ]
    axes.imshow(values, cmap="BuGn", aspect="auto")
    axes.set_xticks(range(len(chart.columns)), chart.columns, fontsize=7)
    axes.set_yticks(range(len(chart.rows)), chart.rows, fontsize=7)
    for r, row in enumerate(values):
        for c, value in enumerate(row):
            if is_shown(value):
                axes.text(c, r, f"{value:.4g}", ha="center", va="center", fontsize=7)
    axes.set_xlabel(chart.label, fontsize=7)


def finish(axes: Any, x_label: str, y_label: str) -> None:
    """Label the axes, and leave out what says nothing."""
    axes.set_xlabel(x_label, fontsize=8)
    axes.set_ylabel(y_label, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
