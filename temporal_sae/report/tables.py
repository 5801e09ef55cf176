"""A table of text, and the forms in which it is written: Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import math
from typing import NamedTuple

from temporal_sae.metrics import DASH

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "…": r"\ldots{}",
    "−": "$-$",
    "±": r"$\pm$",
    "λ": r"$\lambda$",
    "φ": r"$\phi$",
    "²": r"$^2$",
}
LEAST_P = 0.001
FORMULAS = "=+-@\t\r"  # a spreadsheet computes a cell that begins so


class Table(NamedTuple):
    """A table whose first column names its rows.

    Attributes:
        name: of its file.
        title: of the table.
        header: a name for every column.
        rows: a cell for every column, as it is shown.
        notes: sentences below it.
    """

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]


def to_markdown(table: Table) -> str:
    """Return the rows in Markdown; a bar in a cell does not end it."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def to_latex(table: Table) -> str:
    """Return the table for a paper, in the style of `booktabs`."""
    columns = "l" + "r" * (len(table.header) - 1)

    def line(cells: list[str]) -> str:
        return " & ".join(map(latex_text, cells)) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex_text(' '.join([table.title + '.', *table.notes]))}}}",
            rf"  \label{{tab:{table.name}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            f"    {line(table.header)}",
            r"    \midrule",
            *(f"    {line(row)}" for row in table.rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def latex_text(text: str) -> str:
    """Return a text in which nothing is a command."""
    return "".join(LATEX.get(c, c) for c in text)


def to_csv(table: Table) -> str:
    """Return the rows as comma-separated values; none of them is a formula to a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(table.header)
    writer.writerows([plain_cell(cell) for cell in row] for row in table.rows)
    return out.getvalue()


def plain_cell(cell: str) -> str:
    """Return a cell that is no formula; a number stays one."""
    if not cell.startswith(tuple(FORMULAS)):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def number(value: float | None) -> str:
    """Three significant digits; thousands whole."""
    if value is None:
        return "not reached"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def shown_p(p: float) -> str:
    """Return a p value with as many digits as it deserves; a dash for none."""
    if math.isnan(p):
        return DASH
    return f"<{LEAST_P}" if p < LEAST_P else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
