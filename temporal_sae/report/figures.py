"""Figures as data: what is shown, whoever draws it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Line(NamedTuple):
    """A named line; `None` among ys is a gap."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]


class Point(NamedTuple):
    """A point with what a hand on it says, where a click leads, and its shade."""

    x: float
    y: float
    title: str
    link: str = ""
    kind: int = 0


class Cell(NamedTuple):
    """A value with what a hand on it says and where a click leads."""

    value: float | None
    title: str = ""
    link: str = ""


class Lines(NamedTuple):
    """Lines over a common axis; `label` says in words what they show."""

    label: str
    lines: Sequence[Line]
    x_label: str = ""
    from_zero: bool = False


class Points(NamedTuple):
    """Points, and lines through some of them."""

    label: str
    points: Sequence[Point]
    x_label: str
    y_label: str
    curves: Sequence[Line] = ()


class Grid(NamedTuple):
    """A table of values, which are shaded by their size."""

    label: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Cell]]


class Parallel(NamedTuple):
    """A line for each run through an axis for each option and score.

    Attributes:
        label: of the chart.
        axes: name, and the value of every run; a run without a value is not drawn.
        titles, links: what a hand on a run's line says, and where a click leads.
        kinds: shade of each line.
    """

    label: str
    axes: Sequence[tuple[str, Sequence[float | None]]]
    titles: Sequence[str]
    links: Sequence[str]
    kinds: Sequence[int]


class Figure(NamedTuple):
    """A chart with its title and a sentence on how to read it."""

    title: str
    chart: Lines | Points | Grid | Parallel
    says: str = ""

    @property
    def name(self) -> str:
        """The name of its file."""
        return re.sub(r"[^a-z0-9]+", "_", self.title.lower()).strip("_")[:80]
