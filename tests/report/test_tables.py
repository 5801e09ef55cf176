"""Tables in Markdown, LaTeX and CSV."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.report.tables import Table, latex_text, to_csv, to_latex, to_markdown

TABLE = Table("cost", "Cost & time", ["part", "MiB_max"], [["a|b", "1.5"], ["50 %", "–"]], ["x_1"])


def test_markdown_has_a_bar_for_every_column_and_no_more():
    assert to_markdown(TABLE).splitlines() == [
        "| part | MiB_max |",
        "| --- | --- |",
        r"| a\|b | 1.5 |",
        "| 50 % | – |",
    ]


def test_latex_is_a_table_for_a_paper():
    text = to_latex(TABLE)
    assert r"\caption{Cost \& time. x\_1}" in text
    assert r"part & MiB\_max \\" in text
    assert r"a\textbar{}b & 1.5 \\" in text
    assert r"50 \% & -- \\" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


@given(st.text(st.characters(codec="ascii")))
def test_no_character_is_a_command_to_latex(text):
    plain = latex_text(text)
    for word in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}"):
        plain = plain.replace(word, "")
    for word in (r"\textless{}", r"\textgreater{}", r"\textbar{}"):
        plain = plain.replace(word, "")
    for c in "{}&%$#_":
        plain = plain.replace("\\" + c, "")
    assert not set(plain) & set("\\{}&%$#_~^<>|")


@given(st.lists(st.lists(st.text(max_size=9), min_size=2, max_size=2), max_size=4))
def test_csv_is_read_back(rows):
    table = TABLE._replace(rows=rows)
    found = list(csv.reader(io.StringIO(to_csv(table), newline="")))
    back = [
        [cell.removeprefix("'") if cell[1:2] in "=+-@\t\r" else cell for cell in row]
        for row in found
    ]
    expected = [
        [cell.removeprefix("'") if cell[1:2] in "=+-@\t\r" else cell for cell in row]
        for row in [TABLE.header, *rows]
    ]
    assert back == expected


@pytest.mark.parametrize("cell", ["=1+1", "+cmd", "-cmd", "@x", "\tx"])
def test_no_cell_is_a_formula(cell):
    assert f"'{cell}" in to_csv(TABLE._replace(rows=[[cell, "-1.5"]]))
    assert ",-1.5" in to_csv(TABLE._replace(rows=[[cell, "-1.5"]]))
