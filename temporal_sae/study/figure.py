"""The figures of the study's page: what every arm pays and what it gets, as SVG files."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from temporal_sae.report.charts import axis_of, short

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 190, 28, 44
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


def pareto(title: str, x_label: str, y_label: str, arms: Sequence[Path]) -> str:
    """Return the points of all arms, a line through those of each."""
    x_axis = axis_of([x for arm in arms for x in arm.xs])
    y_axis = axis_of([y for arm in arms for y in arm.ys])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + x_axis.share(x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y_axis.share(y) * (HEIGHT - TOP - BOTTOM),
        )

    parts = [text(LEFT, 16, title, "start")]
    for tick in y_axis.ticks:
        _, y = place(x_axis.lo, tick)
        parts.append(f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(text(LEFT - 6, y + 4, short(tick), "end"))
    for tick in x_axis.ticks:
        parts.append(text(place(tick, y_axis.lo)[0], HEIGHT - BOTTOM + 16, short(tick), "middle"))
    parts.append(text(WIDTH - RIGHT, HEIGHT - 8, x_label, "end"))
    parts.append(text(WIDTH - RIGHT, 16, y_label, "end"))
    for number, arm in enumerate(arms):
        points = [place(x, y) for x, y in zip(arm.xs, arm.ys, strict=True)]
        parts += drawn(number, arm.name, points)
    content = "".join(parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    return f"{head}<title>{escape(title)}</title><style>{STYLE}</style>{content}</svg>\n"


def drawn(number: int, name: str, points: Sequence[tuple[float, float]]) -> list[str]:
    """Return an arm's line and marks, and its name beside the chart."""
    colour = COLOURS[number % len(COLOURS)]
    kind = MARKS[number // len(COLOURS) % len(MARKS)]
    d = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    y = TOP + 14 * number + 6
    parts = [f'<path class="line" stroke="{colour}" d="M{d}"/>'] if len(points) > 1 else []
    parts += [mark(kind, colour, x, y) for x, y in points]
    parts += [mark(kind, colour, WIDTH - RIGHT + 16, y), text(WIDTH - RIGHT + 26, y + 4, name)]
    return parts


def mark(kind: str, colour: str, x: float, y: float) -> str:
    """Return a point."""
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
