"""Reports as they are asked for: of one run, of a sweep, of several; with tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from temporal_sae import schemas
from temporal_sae.errors import RunError, printable
from temporal_sae.files import write_atomically
from temporal_sae.report.build import PAGE, build_report
from temporal_sae.report.figures import Figure
from temporal_sae.report.png import write_png
from temporal_sae.report.run_facts import read_facts
from temporal_sae.report.run_page import figures_of, page_of_unfinished
from temporal_sae.report.sweep_build import SWEEP, facts_of_folders, write_report
from temporal_sae.report.sweep_facts import RECORD, RESULTS
from temporal_sae.report.sweep_page import figures_of_jobs, tables_of
from temporal_sae.report.tables import Table, to_csv, to_latex

EXTRA = "report"  # the folder of tables and figures, beside the page


class Options(NamedTuple):
    """The options of a report.

    Attributes:
        reference: beside the published runs.
        csv, latex: write the tables so.
        png: write the figures so.
    """

    reference: bool = False
    csv: bool = False
    latex: bool = False
    png: bool = False


def write_reports(folders: Sequence[Path], output: Path | None, options: Options) -> list[Path]:
    """Write a report; returns the paths of what was written.

    Args:
        folders: of runs or sweeps.
        output: receives the report; None: the folder itself, if there is one.
        options: see there.

    Raises:
        RunError: a folder holds no run, or several have no place for their report.
    """
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"{printable(str(folder))}: there is no such folder")
    if len(folders) == 1 and output is None and (folders[0] / RECORD).is_file():
        return report_of_run(folders[0], options)
    if output is None:
        if len(folders) > 1:
            raise RunError("--output: must name a folder for the report of several")
        output = folders[0]
    if output != folders[0] or not (output / SWEEP).is_file():
        check_free(output)
    output.mkdir(parents=True, exist_ok=True)
    facts = facts_of_folders(folders, output, options.reference)
    page = write_report(facts)
    figures = [figure for part in figures_of_jobs(facts).values() for figure in part]
    return [page, *extra(output, tables_of(facts), figures, options)]


def report_of_run(folder: Path, options: Options) -> list[Path]:
    """Write the report of a run into its folder; of one that has not finished, what there is.

    Raises:
        RunError: a file is damaged.
    """
    if not (folder / RESULTS).exists():
        record = schemas.read(folder / RECORD, dict[str, Any])
        write_atomically(folder / PAGE, page_of_unfinished(folder, record))
        return [folder / PAGE]
    page = build_report(folder, options.reference)
    facts = read_facts(folder, options.reference)
    figures = [figure for part in figures_of(facts) for figure in part]
    return [page, *extra(folder, facts.tables, figures, options)]


def check_free(folder: Path) -> None:
    """Refuse a folder in which the report would replace that of a run.

    Raises:
        RunError: see above.
    """
    if (folder / RECORD).is_file():
        raise RunError(f"--output={folder}: holds a run, whose report would be replaced")


def extra(
    folder: Path, tables: Sequence[Table], figures: Sequence[Figure], options: Options
) -> list[Path]:
    """Write tables and figures for a paper; returns the folder if there are any."""
    forms: dict[str, Callable[[Table], str]] = {}
    if options.csv:
        forms["csv"] = to_csv
    if options.latex:
        forms["tex"] = to_latex
    if not forms and not options.png:
        return []
    place = folder / EXTRA
    place.mkdir(exist_ok=True)
    for table in tables:
        for ending, form in forms.items():
            write_atomically(place / f"{table.name}.{ending}", form(table))
    if options.png:
        write_png(place, figures)
    return [place]
