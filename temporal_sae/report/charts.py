"""Charts as inline SVG: lines, points, a grid of cells, parallel coordinates.

A chart takes the colours of its page, light or dark, and says in words what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple, TypeGuard

from temporal_sae.report.figures import Cell, Grid, Line, Lines, Parallel, Point, Points

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 30
MOST_TICKS = 5
SHADES = 10


class Axis(NamedTuple):
    """The range of an axis on the page, and its marks.

    Attributes:
        lo, hi: of the values.
        ticks: values that are marked.
        is_log: equal steps are equal factors.
    """

    lo: float
    hi: float
    ticks: list[float]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Return how far along the axis a value is."""
        if self.is_log:
            return math.log(value / self.lo) / math.log(self.hi / self.lo)
        return (value - self.lo) / (self.hi - self.lo)


def draw(chart: Lines | Points | Grid | Parallel) -> str:
    """Return a chart as HTML."""
    match chart:
        case Lines():
            return line_chart(*chart)
        case Points():
            return scatter(*chart)
        case Grid():
            return heatmap(*chart)
        case Parallel():
            return parallel(*chart)


def axis_of(values: Sequence[float], from_zero: bool = False, is_log: bool = False) -> Axis:
    """Return an axis that holds some values, with round numbers marked."""
    lo, hi = min(values, default=0.0), max(values, default=1.0)
    if is_log and lo > 0:
        lo, hi = (lo, hi) if hi > lo else (lo / 2, hi * 2)
        powers = range(math.floor(math.log10(lo)), math.ceil(math.log10(hi)) + 1)
        marks = [m * 10.0**p for p in powers for m in (1, 2, 5) if lo <= m * 10.0**p <= hi]
        step = max(1, -(-len(marks) // MOST_TICKS))
        return Axis(lo, hi, marks[::step] or [lo, hi], True)
    if from_zero:
        lo, hi = min(lo, 0.0), max(hi, 0.0)
    if hi <= lo:
        room = abs(lo) / 10 or 1.0
        lo, hi = lo - room, hi + room
    size = step_of(hi - lo)
    first = math.ceil(lo / size - 1e-9)
    ticks = [n * size for n in range(first, math.floor(hi / size + 1e-9) + 1)]
    return Axis(lo, hi, ticks)


def step_of(span: float) -> float:
    """Return a round step of which a span has at most five."""
    rough = span / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def short(value: float) -> str:
    """Return a number for an axis, in few characters."""
    size = abs(value)
    if size >= 1e4:
        power = min(int(math.log10(size) // 3), 4)
        return f"{value / 1000**power:.3g}{['', 'k', 'M', 'G', 'T'][power]}"
    return f"{value:.4g}" if size >= 1e-3 or not size else f"{value:.0e}"


def line_chart(
    label: str, lines: Sequence[Line], x_label: str = "", from_zero: bool = False
) -> str:
    """Return lines over a common axis, each named at its end."""
    known = [(x, y) for line in lines for x, y in zip(line.xs, line.ys, strict=True) if is_shown(y)]
    if not known:
        return nothing(label)
    x_axis, y_axis = axis_of([x for x, _ in known]), axis_of([y for _, y in known], from_zero)
    paths = []
    for n, line in enumerate(lines):
        shown, pen = [], "M"
        for x, y in zip(line.xs, line.ys, strict=True):
            if not is_shown(y):
                pen = "M"
                continue
            shown.append(f"{pen}{place_x(x_axis, x):.1f} {place_y(y_axis, y):.1f}")
            pen = "L"
        title = f"<title>{escape(line.name)}</title>"
        paths.append(f'<path class="line s{n}" d="{"".join(shown)}">{title}</path>')
    return drawing(label, axes(x_axis, y_axis, x_label) + "".join(paths)) + legend(lines)


def scatter(
    label: str, points: Sequence[Point], x_label: str, y_label: str, curves: Sequence[Line] = ()
) -> str:
    """Return points, each of which may lead somewhere, and lines through some of them."""
    if not points:
        return nothing(label)
    x_axis, y_axis = axis_of([p.x for p in points]), axis_of([p.y for p in points])
    marks = [
        f'<path class="line s{n % 6}" d="M'
        + "L".join(
            f"{place_x(x_axis, x):.1f} {place_y(y_axis, y):.1f}"
            for x, y in zip(c.xs, c.ys, strict=True)
            if is_shown(y)
        )
        + f'"><title>{escape(c.name)}</title></path>'
        for n, c in enumerate(curves)
    ]
    for p in points:
        place = f'cx="{place_x(x_axis, p.x):.1f}" cy="{place_y(y_axis, p.y):.1f}"'
        hint = f"<title>{escape(p.title)}</title>"
        dot = f'<circle class="dot s{p.kind % 6}" {place} r="4">{hint}</circle>'
        name = escape(p.title, quote=True)
        link = escape(p.link, quote=True)
        marks.append(f'<a href="{link}" aria-label="{name}">{dot}</a>' if p.link else dot)
    head = label_at(LEFT, TOP - 1, "start", y_label)
    return drawing(label, axes(x_axis, y_axis, x_label) + head + "".join(marks)) + (
        legend(curves) if len(curves) > 1 else ""
    )


def heatmap(
    label: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[Cell]]
) -> str:
    """Return a grid as a table whose cells are shaded; each may lead somewhere."""
    values = [cell.value for row in cells for cell in row if is_shown(cell.value)]
    lo, hi = min(values, default=0.0), max(values, default=1.0)
    body = []
    for name, row in zip(rows, cells, strict=True):
        shaded = "".join(shaded_cell(cell, lo, (hi - lo) or 1.0) for cell in row)
        body.append(f'<tr><th scope="row">{escape(name)}</th>{shaded}</tr>')
    heads = "".join(f'<th scope="col" class="number">{escape(c)}</th>' for c in columns)
    caption = f"<caption>{escape(label)}</caption>"
    return (
        f'<table class="heat">{caption}<thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def shaded_cell(cell: Cell, lo: float, span: float) -> str:
    """Return a cell of a grid, the darker the larger its value."""
    if not is_shown(cell.value):
        return '<td class="number empty">–</td>'
    text = short(cell.value)
    content = f'<a href="{escape(cell.link, quote=True)}">{text}</a>' if cell.link else text
    level = round((SHADES - 1) * (cell.value - lo) / span)
    hint = escape(cell.title, quote=True)
    return f'<td class="number h{level}" title="{hint}">{content}</td>'


def parallel(
    label: str,
    axes_: Sequence[tuple[str, Sequence[float | None]]],
    titles: Sequence[str],
    links: Sequence[str],
    kinds: Sequence[int],
) -> str:
    """Return a line for each run; the arguments are those of `Parallel`."""
    width, height = 860, 260
    scales = [axis_of([v for v in values if is_shown(v)]) for _, values in axes_]
    step = (width - 2 * LEFT) / max(1, len(axes_) - 1)
    marks = []
    for n, (name, _) in enumerate(axes_):
        x, scale = LEFT + n * step, scales[n]
        anchor = "start" if n == 0 else "end" if n == len(axes_) - 1 else "middle"
        marks.append(
            f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="30" y2="{height - 20}"/>'
            + label_at(x, 12, anchor, name, "axis strong")
            + label_at(x, 25, anchor, short(scale.hi))
            + label_at(x, height - 6, anchor, short(scale.lo))
        )
    for r, title in enumerate(titles):
        values = [values[r] for _, values in axes_]
        if not all(map(is_shown, values)):
            continue
        d = "L".join(
            f"{LEFT + n * step:.1f} {height - 20 - scales[n].share(v or 0.0) * (height - 50):.1f}"
            for n, v in enumerate(values)
        )
        line = f'<path class="line thin s{kinds[r]}" d="M{d}"><title>{escape(title)}</title></path>'
        name, link = escape(title, quote=True), escape(links[r], quote=True)
        marks.append(f'<a href="{link}" aria-label="{name}">{line}</a>' if link else line)
    return drawing(label, "".join(marks), width, height)


def is_shown(value: float | None) -> TypeGuard[float]:
    """Return True for a finite number."""
    return value is not None and math.isfinite(value)


def place_x(axis: Axis, value: float) -> float:
    """Return where a value is on the page."""
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def place_y(axis: Axis, value: float) -> float:
    """Return where a value is on the page, which grows downwards."""
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def axes(x_axis: Axis, y_axis: Axis, x_label: str) -> str:
    """Return rules, marks and their values."""
    parts = []
    for tick in y_axis.ticks:
        y = place_y(y_axis, tick)
        parts.append(
            f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            + label_at(LEFT - 6, y + 3.5, "end", short(tick))
        )
    for tick in x_axis.ticks:
        x = place_x(x_axis, tick)
        anchor = "end" if x > WIDTH - 24 else "middle"
        parts.append(label_at(x, HEIGHT - BOTTOM + 14, anchor, short(tick)))
    if x_label:
        parts.append(label_at(WIDTH - RIGHT, HEIGHT - 3, "end", x_label))
    return "".join(parts)


def label_at(x: float, y: float, anchor: str, text: str, kind: str = "axis") -> str:
    """Return a few words in a chart."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


def drawing(label: str, content: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Return the picture; to a reader of screens it is what its label says."""
    name = escape(label, quote=True)
    role = "group" if "<a " in content else "img"
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="{role}" aria-label="{name}">'
        f"{content}</svg>"
    )


def legend(lines: Sequence[Line]) -> str:
    """Return the names of lines; that of a single one is the chart's own."""
    if len(lines) < 2:
        return ""
    items = "".join(
        f'<li><span class="key s{n % 6}"></span>{escape(line.name)}</li>'
        for n, line in enumerate(lines)
    )
    return f'<ul class="legend">{items}</ul>'


def nothing(label: str) -> str:
    """Return what stands in the place of a chart without a value."""
    return f'<p class="soft">{escape(label)}: nothing was measured.</p>'
