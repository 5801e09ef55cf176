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

FORMS: dict[str, Callable[[Compared], str]] = {
    "csv": lambda compared: to_csv(exact_table(compared)),
    "latex": lambda compared: to_latex(table_of(compared)),
    "markdown": lambda compared: as_markdown(table_of(compared)),
}
FOLDED = ("metric", "arm", "within margin")
WORDS = (*FOLDED, "verdict")
OVER_TEXTS = "… and texts"
LESS = (OVER_TEXTS, "d_z", "p", "p (BH)", "detectable")  # what a narrow terminal leaves out
WIDTH, ENOUGH = 240, 150  # columns of a file or a pipe, which has no width; and for all numbers
MOST_ROWS = 120  # printed


def table_of(compared: Compared) -> Table:
    """Return all rows, the primary metric's first and then metric by metric."""
    title = "Every score against the baseline" if compared.has_arms else "A - B"
    seeds = sorted({len(own) for own in compared.seeds.values()})
    over = " to ".join(map(str, dict.fromkeys([seeds[0], seeds[-1]])))
    return Table(
        "comparison",
        f"{title}, paired over {over} shared seed{'s' if seeds[-1] > 1 else ''}",
        header_of(compared),
        [cells_of(compared, n) for n in order_of(compared.rows)],
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


def cells_of(compared: Compared, place: int) -> list[str]:
    """Return the cells of a row."""
    found, test = compared.rows[place], compared.rows[place].row.test
    texts, equivalent = compared.over_texts.get(place), compared.equivalent.get(place)
    margin = DASH
    if equivalent:
        p = shown_p(equivalent.p)
        margin = f"±{equivalent.margin:g}: {equivalent.word} (p {p})"
    return [
        printable(found.row.metric) + (" (primary)" if found.primary else ""),
        *([printable(found.arm)] if compared.has_arms else []),
        number(found.row.mean_a),
        number(found.row.mean_b),
        f"{test.mean:+.3g}",
        interval_cell(test.low, test.high),
        *([interval_cell(texts.low, texts.high) if texts else DASH] if compared.over_texts else []),
        number_or_dash(test.d_z),
        *map(shown_p, [test.p, found.holm, found.bh]),
        str(test.n),
        number_or_dash(detectable_difference(test.deviation, test.n)),
        *([margin] if compared.equivalent else []),
        found.verdict,
    ]


def interval_cell(low: float, high: float) -> str:
    """Return an interval, a dash for none."""
    return DASH if math.isnan(low) else f"{low:+.3g} … {high:+.3g}"


def exact_table(compared: Compared) -> Table:
    """Return all rows with a number in each cell, six digits of it; empty where there is none."""
    records = [record_of(compared, place) for place in order_of(compared.rows)]
    rows = [[exact(value) for value in record.values()] for record in records]
    return Table("comparison", "", list(records[0]), rows, [])


def record_of(compared: Compared, place: int) -> dict[str, str | float]:
    """Return all that is known of a row, by the name of its column."""
    found, test = compared.rows[place], compared.rows[place].row.test
    texts, equivalent = compared.over_texts.get(place), compared.equivalent.get(place)
    return {
        "metric": printable(found.row.metric),
        "primary": "true" if found.primary else "false",
        "arm": printable(found.arm),
        "mean": found.row.mean_a,
        "baseline": found.row.mean_b,
        "difference": test.mean,
        "low": test.low,
        "high": test.high,
        "low_seeds_and_texts": texts.low if texts else math.nan,
        "high_seeds_and_texts": texts.high if texts else math.nan,
        "d_z": test.d_z,
        "p": test.p,
        "p_holm": found.holm,
        "p_bh": found.bh,
        "n": test.n,
        "detectable": detectable_difference(test.deviation, test.n),
        "margin": equivalent.margin if equivalent else math.nan,
        "p_equivalent": equivalent.p if equivalent else math.nan,
        "equivalence": equivalent.word if equivalent else "",
        "verdict": found.verdict,
    }


def exact(value: str | float) -> str:
    """Return a cell of `exact_table`."""
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


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


def as_markdown(table: Table) -> str:
    """Return a table in Markdown, with the sentences below it."""
    return "\n\n".join([to_markdown(table), *table.notes]) + "\n"


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
        write_atomically(path, FORMS[form](compared))
    return list(files.values())
