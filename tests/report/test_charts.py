"""Charts: what is drawn where, and that nothing but numbers and escaped words is."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    axis_of,
    heatmap,
    line_chart,
    parallel,
    scatter,
    short,
)
from temporal_sae.report.figures import Cell, Line, Point

HOSTILE = "<script>alert('x')</script>\" & </svg>"
values = st.floats(-1e9, 1e9).map(lambda v: round(v, 3))


def parsed(html):
    """The chart as XML, which any quote or bracket that got through would break."""
    return ElementTree.fromstring(f"<div>{html}</div>")


@given(st.lists(values, min_size=1, max_size=20))
def test_an_axis_holds_all_values_and_marks_round_ones(found):
    axis = axis_of(found)
    assert all(-1e-9 <= axis.share(v) <= 1 + 1e-9 for v in found)
    assert len(axis.ticks) <= 6
    room = 1e-6 * max(1, *map(abs, found))
    assert all(axis.lo - room <= t <= axis.hi + room for t in axis.ticks)
    steps = {round(b - a, 6) for a, b in zip(axis.ticks, axis.ticks[1:], strict=False)}
    assert len(steps) <= 1 or max(steps) - min(steps) <= room


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_equal_factors_are_equal_steps(found):
    axis = axis_of(found, is_log=True)
    middle = (axis.lo * axis.hi) ** 0.5
    assert axis.share(middle) == pytest.approx(0.5)
    assert all(-1e-9 <= axis.share(v) <= 1 + 1e-9 for v in found)


def test_a_line_goes_from_corner_to_corner_and_stops_at_a_gap():
    chart = line_chart("x", [Line("a", [0, 1, 2, 3], [0.0, None, 5.0, 10.0])])
    path = parsed(chart).find(".//path").get("d")
    assert re.fullmatch(
        rf"M{LEFT}\.0 {HEIGHT - BOTTOM}\.0M\S+ \S+L{WIDTH - RIGHT}\.0 {TOP}\.0", path
    )


@pytest.mark.parametrize("ys", [[], [None, None], [float("nan"), float("inf")]])
def test_nothing_measured_is_said(ys):
    assert "Loss: nothing was measured" in line_chart("Loss", [Line("a", range(len(ys)), ys)])


def test_several_lines_have_a_legend():
    lines = [Line("first", [0, 1], [1, 2]), Line("second", [0, 1], [2, 1])]
    items = [li.text or "".join(li.itertext()) for li in parsed(line_chart("x", lines)).iter("li")]
    assert items == ["first", "second"]
    assert "<li>" not in line_chart("x", lines[:1])


def test_points_lead_to_their_runs():
    points = [Point(1, 2, HOSTILE, 'a b/report.html?"x'), Point(2, 1, "plain")]
    tree = parsed(scatter(HOSTILE, points, "L0", "EV"))
    links = list(tree.iter("a"))
    assert [link.get("href") for link in links] == ['a b/report.html?"x']
    assert [t.text for t in tree.iter("title")] == [HOSTILE, "plain"]
    assert not list(tree.iter("script"))


def test_cells_are_shaded_by_their_value():
    grid = [[Cell(1.0, HOSTILE), Cell(2.0)], [Cell(None), Cell(10.0, "", "x")]]
    html = heatmap(HOSTILE, ["r", HOSTILE], ["c", "d"], grid)
    cells = list(parsed(html).iter("td"))[1:]
    assert [cell.get("class") for cell in cells] == [
        "number h0",
        "number h1",
        "number empty",
        "number h9",
    ]
    assert ["".join(cell.itertext()) for cell in cells] == ["1", "2", "–", "10"]


def test_a_run_is_a_line_through_all_axes():
    axes = [("a", [0.0, 1.0, 2.0]), (HOSTILE, [5.0, None, 6.0])]
    tree = parsed(parallel("x", axes, ["one", "two", "three"], ["1", "2", "3"], [0, 1, 2]))
    assert [link.get("href") for link in tree.iter("a")] == ["1", "3"]  # the second has no value
    first = next(tree.iter("path")).get("d")
    assert first.count("L") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234, "1234"), (12345, "12.3k"), (5e6, "5M"), (0.25, "0.25"), (2e-5, "2e-05")],
)
def test_short_numbers(value, text):
    assert short(value) == text
