"""The table of a comparison, on the terminal and as files, and the sentences below it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table as PrintedTable

from temporal_sae.errors import RunError, printable
from temporal_sae.files import write_atomically
from temporal_sae.metrics import DASH
from temporal_sae.report.compare import Compared
from temporal_sae.report.primary import sentence_of
from temporal_sae.report.rule import Judged, correction
from temporal_sae.report.tables import Table, number, shown_p, to_csv, to_latex, to_markdown
from temporal_sae.report.verdict import is_headline, label_of
from temporal_sae.statistics import detectable_difference

FORMS: dict[str, Callable[[Table], str]] = {
    "csv": to_csv,
    "latex": to_latex,
    "markdown": lambda table: "\n\n".join([to_markdown(table), *table.notes]) + "\n",
}
FOLDED = ("metric", "arm", "within margin")
WORDS = (*FOLDED, "verdict")
OVER_TEXTS = "… and texts"
LESS = (OVER_TEXTS, "d_z", "p", "p (BH)", "detectable")  # what a narrow terminal leaves out
WIDTH, ENOUGH = 240, 150  # columns of a file or a pipe, which has no width; and for all numbers
MOST_ROWS = 120  # printed


def table_of(compared: Compared, exact: bool = False) -> Table:
    """Return all rows, the primary metric's first and then metric by metric.

    Args:
        compared: arms or groups.
        exact: numbers with six digits, instead of as a person reads them.
    """
    title = "Every score against the baseline" if compared.has_arms else "A - B"
    seeds = sorted({len(own) for own in compared.seeds.values()})
    over = " to ".join(map(str, dict.fromkeys([seeds[0], seeds[-1]])))
    return Table(
        "comparison",
        f"{title}, paired over {over} shared seed{'s' if seeds[-1] > 1 else ''}",
        header_of(compared),
        [cells_of(compared, n, exact) for n in order_of(compared.rows)],
        sentences(compared),
    )


def header_of(compared: Compared) -> list[str]:
    """Return the names of the columns."""
    names = list(compared.names)
    if not compared.has_arms:
        names.append("A - B")
    else:
        names = ["arm", *names, "difference"]
    texts = [OVER_TEXTS] if compared.over_texts else []
    tests = ["95 % interval", *texts, "d_z", "p", "p (Holm)", "p (BH)", "n", "detectable"]
    margin = ["within margin"] if compared.equivalent else []
    return ["metric", *names, *tests, *margin, "verdict"]


def order_of(rows: Sequence[Judged]) -> list[int]:
    """Return the places of the rows as they are shown."""
    metrics = list(dict.fromkeys(found.row.metric for found in rows))

    def rank(place: int) -> tuple[bool, bool, bool, int]:
        found = rows[place]
        headline, label = is_headline(found), bool(label_of(found))
        return not found.primary, not headline, not label, metrics.index(found.row.metric)

    return sorted(range(len(rows)), key=rank)


def cells_of(compared: Compared, place: int, exact: bool) -> list[str]:
    """Return the cells of a row."""
    found = compared.rows[place]
    row, test = found.row, found.row.test
    form = (lambda x: DASH if math.isnan(x) else f"{x:.6g}") if exact else number_or_dash
    signed = (lambda x: f"{x:+.6g}") if exact else (lambda x: f"{x:+.3g}")
    p = form if exact else shown_p
    arm = [printable(found.arm)] if compared.has_arms else []
    intervals = [(test.low, test.high)]
    if compared.over_texts:
        texts = compared.over_texts.get(place)
        intervals.append((texts.low, texts.high) if texts else (math.nan, math.nan))
    detectable = detectable_difference(test.deviation, test.n)
    equivalent = compared.equivalent.get(place)
    margin = []
    if compared.equivalent:
        margin = [DASH]
    if equivalent:
        told = f"±{equivalent.margin:g}: {equivalent.word}"
        margin = [told if math.isnan(equivalent.p) else f"{told} (p {p(equivalent.p)})"]
    return [
        printable(row.metric) + (" (primary)" if found.primary else ""),
        *arm,
        form(row.mean_a),
        form(row.mean_b),
        signed(test.mean),
        *(DASH if math.isnan(x) else f"{signed(x)} … {signed(y)}" for x, y in intervals),
        *map(form, [test.d_z]),
        *map(p, [test.p, found.holm, found.bh]),
        str(test.n),
        form(detectable),
        *margin,
        found.verdict,
    ]


def number_or_dash(value: float) -> str:
    """Return three significant digits, a dash for none."""
    return DASH if math.isnan(value) else number(value)


def sentences(compared: Compared) -> list[str]:
    """Return what was left out, the primary metric, and what correction was made."""
    texts = (
        f"{OVER_TEXTS}: the interval for other texts, too, where the first is for other seeds on "
        "these texts."
    )
    return [
        *map(printable, compared.notes),
        sentence_of(compared.primary),
        correction(compared.rows),
        *([texts] if compared.over_texts else []),
        "d_z: mean over standard deviation of the paired differences; detectable: the true "
        "difference that a single test at 5 % would find four times in five.",
    ]


def print_comparison(compared: Compared, console: Console) -> None:
    """The table and the sentences below it: the first rows of a long one, and what has room."""
    table = table_of(compared)
    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, WIDTH))
    narrow = console.width < ENOUGH
    shown = [n for n, name in enumerate(table.header) if not (narrow and name in LESS)]
    printed = PrintedTable(title=table.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    for name in (table.header[n] for n in shown):
        justify: JustifyMethod = "left" if name in WORDS else "right"
        printed.add_column(name, justify=justify, no_wrap=name not in FOLDED, overflow="fold")
    for row in table.rows[:MOST_ROWS]:
        printed.add_row(*(row[n] for n in shown))
    console.print(printed, markup=False, highlight=False)
    lines = list(table.notes)
    more = len(table.rows) - MOST_ROWS
    missing = [f"{more} more rows"] if more > 0 else []
    missing += ["more columns"] if narrow else []
    if missing:
        lines.insert(0, f"{' and '.join(missing)} in --csv, --markdown and --latex FILE")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_tables(compared: Compared, files: dict[str, Path]) -> list[Path]:
    """Write the table in the forms of FORMS that are asked for; returns the paths.

    Args:
        compared: arms or groups.
        files: by form.

    Raises:
        RunError: the folder of a file is not there.
    """
    for form, path in files.items():
        if not path.parent.is_dir():
            raise RunError(f"--{form}={path}: there is no such folder")
        write_atomically(path, FORMS[form](table_of(compared, exact=form == "csv")))
    return list(files.values())
