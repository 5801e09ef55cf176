"""The figures of the study's page: what every arm pays and what it gets, as SVG files."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from temporal_sae.report.charts import Axis, axis_of, short

PANEL, HEIGHT, LEGEND = 300, 360, 150  # widths of a panel and of the names, and the height
LEFT, TOP, BOTTOM = 56, 46, 44
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
MARKS = ("circle", "square", "triangle", "cross")
# Both themes of the documentation have to show it: middle greys on no ground of its own.
STYLE = (
    "text{font:12px sans-serif;fill:#808080}.rule{stroke:#808080;stroke-opacity:.3}"
    ".line{fill:none;stroke-width:1.5}"
)


class Path(NamedTuple):
    """An arm's points in the order of λ2."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


class Panel(NamedTuple):
    """Some arms in a chart of their own, with a title above it."""

    title: str
    arms: Sequence[Path]


def pareto(title: str, x_label: str, y_label: str, panels: Sequence[Panel]) -> str:
    """Return the points of all arms, a line through those of each.

    Panels lie side by side and share their axes; what has the same name looks the same in all.
    """
    arms = [arm for panel in panels for arm in panel.arms]
    axes = (
        axis_of([x for arm in arms for x in arm.xs]),
        axis_of([y for arm in arms for y in arm.ys]),
    )
    names = list(dict.fromkeys(arm.name for arm in arms))
    end = LEFT + PANEL * len(panels)
    parts = [text(LEFT, 16, title), text(end - 20, HEIGHT - 8, x_label, "end")]
    parts.append(text(end - 20, 16, y_label, "end"))
    for place, panel in enumerate(panels):
        parts += drawn(panel, LEFT + PANEL * place, axes, names)
    for number, name in enumerate(names):
        y = TOP + 14 * number + 6
        parts += [mark(number, end, y), text(end + 10, y + 4, name)]
    height = max(HEIGHT, TOP + 14 * len(names))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {end + LEGEND} {height}" role="img">'
    )
    content = "".join(parts)
    return f"{head}<title>{escape(title)}</title><style>{STYLE}</style>{content}</svg>\n"


def drawn(panel: Panel, left: int, axes: tuple[Axis, Axis], names: Sequence[str]) -> list[str]:
    """Return a panel, at so many pixels from the left."""
    x_axis, y_axis = axes
    right = left + PANEL - 20

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = x_axis.share(x) * (right - left), y_axis.share(y) * (HEIGHT - TOP - BOTTOM)
        return left + across, HEIGHT - BOTTOM - up

    parts = [text(left, TOP - 10, panel.title)]
    for tick in y_axis.ticks:
        _, y = place(x_axis.lo, tick)
        parts.append(f'<path class="rule" d="M{left} {y:.1f}H{right}"/>')
        if left == LEFT:
            parts.append(text(left - 6, y + 4, short(tick), "end"))
    for tick in x_axis.ticks:
        x, _ = place(tick, y_axis.lo)
        parts.append(text(x, HEIGHT - BOTTOM + 16, short(tick), "middle"))
    for arm in panel.arms:
        number = names.index(arm.name)
        points = [place(x, y) for x, y in zip(arm.xs, arm.ys, strict=True)]
        if len(points) > 1:
            d = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            parts.append(f'<path class="line" stroke="{colour_of(number)}" d="M{d}"/>')
        parts += [mark(number, x, y) for x, y in points]
    return parts


def colour_of(number: int) -> str:
    """Return the colour of the arm of that number."""
    return COLOURS[number % len(COLOURS)]


def mark(number: int, x: float, y: float) -> str:
    """Return a point of the arm of that number."""
    colour, kind = colour_of(number), MARKS[number // len(COLOURS) % len(MARKS)]
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    shapes = {
        "square": "m-3.5 -3.5h7v7h-7z",
        "triangle": "m0 -4.5l4.2 7.5h-8.4z",
        "cross": "m-4 -4l8 8m0 -8l-8 8",
    }
    paint = f'stroke="{colour}" stroke-width="2"' if kind == "cross" else f'fill="{colour}"'
    return f'<path d="M{x:.1f} {y:.1f}{shapes[kind]}" {paint}/>'


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Return a few words."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
