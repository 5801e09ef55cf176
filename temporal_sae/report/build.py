"""The reports of a run: `notes.md`, `report.html`, and the table printed at its end."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from temporal_sae.files import write_atomically
from temporal_sae.metrics import DASH
from temporal_sae.report.notes import notes_of
from temporal_sae.report.run_facts import read_facts
from temporal_sae.report.run_page import page_of

NOTES, PAGE = "notes.md", "report.html"


def build_report(folder: str | Path, reference: bool = False) -> Path:
    """Write `notes.md` and `report.html` from the files of a run; returns the page's path.

    Args:
        folder: of the run.
        reference: beside the reference runs too, whatever the model.

    Raises:
        FileNotFoundError, RunError: record or results are missing or damaged.
    """
    facts = read_facts(folder, reference)
    write_atomically(facts.folder / NOTES, notes_of(facts))
    write_atomically(facts.folder / PAGE, page_of(facts))
    return facts.folder / PAGE


def print_summary(folder: str | Path, console: Console, reference: bool = False) -> None:
    """The table at the end of a run, its cost, and where everything was written.

    Args:
        folder: of the run.
        console: where to print; a narrow one is enough.
        reference: beside the reference runs too, whatever the model.
    """
    facts = read_facts(folder, reference)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for n, name in enumerate(facts.measured.header):
        table.add_column(name, justify="left" if n == 0 else "right", no_wrap=n == 0)
    for row in facts.measured.rows:
        table.add_row(*(cell.replace(DASH, "-") for cell in row))
    console.print(table)
    whole = not console.is_terminal  # a file has no width
    for line in [*facts.measured.notes, *facts.judgement.sentences[:1], facts.cost]:
        console.print(line, markup=False, highlight=False, soft_wrap=whole)
    last = f"written to {facts.folder} (read {NOTES}, look at {PAGE})"
    console.print(last, markup=False, highlight=False, soft_wrap=True)
