"""Write the report of runs or sweeps, show a run's table, or compare two groups of runs.

    python -m temporal_sae.report FOLDER... [--output FOLDER] [--reference] [--csv --latex --png]
    python -m temporal_sae.report show FOLDER [--reference]
    python -m temporal_sae.report compare FOLDER... --against FOLDER...
    python -m temporal_sae.report compare SWEEP --by KEY... --baseline OVERRIDE...

The first writes report.html and notes.md: for one run or one sweep into its own folder, for several
into --output. --csv, --latex and --png add tables and figures for a paper, in `report/` beside the
page; --reference adds the published runs on gemma-2-2b. `show` prints the table of a run's end
again. `compare` tests every score that both groups have in pairs of equal seed: A against B, or
the arms of a sweep, told apart by the values of --by, against the runs with the overrides of
--baseline. A difference is called an improvement only by the rule: the metric that the sweep has
fixed beforehand (hydra.sweeper.primary) by itself, all others after Holm's correction. --equivalent
METRIC=MARGIN asks if a difference is too small to matter (TOST); --csv, --latex, --markdown and
--png FILE write the table and a figure. Exit codes: 0 written, shown or compared, 2 wrong input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from temporal_sae import signals
from temporal_sae.commands import Parser, exit_on_mistakes, fail, let_readers_leave
from temporal_sae.report.build import print_summary
from temporal_sae.terminal import wide


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and print what is asked for."""
    let_readers_leave()
    with signals.ending():
        _main(arguments)


def _main(arguments: list[str] | None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    names = {"show": _show, "compare": _compare}
    command = names.get(words[0], _write) if words else _write
    with exit_on_mistakes():
        command(words if command is _write else words[1:])


def _parser(usage: str) -> Parser:
    return Parser(
        prog="python -m temporal_sae.report",
        usage=f"python -m temporal_sae.report {usage}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _write(words: list[str]) -> None:
    from temporal_sae.report.export import Options, write_reports

    parser = _parser("FOLDER... [options]")
    parser.add_argument("folders", nargs="+", type=Path, help="of runs or sweeps")
    parser.add_argument("--output", type=Path, help="a folder for the report of several")
    parser.add_argument("--reference", action="store_true", help="beside the published runs")
    for form in ("csv", "latex", "png"):
        parser.add_argument(f"--{form}", action="store_true", help=f"tables or figures as {form}")
    options = parser.parse_args(words)
    wanted = Options(options.reference, options.csv, options.latex, options.png)
    for path in write_reports(options.folders, options.output, wanted):
        print(f"written: {path}")


def _compare(words: list[str]) -> None:
    from temporal_sae.report.compare import compare_arms, compare_two, parse_margins
    from temporal_sae.report.compare_table import FORMS, print_comparison, write_tables
    from temporal_sae.report.forest import write_forest

    parser = _parser("compare FOLDER... (--against FOLDER... | --by KEY... --baseline OVERRIDE...)")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of group A, or one of a sweep")
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}  # of a flag given twice, all
    parser.add_argument("--against", **several, type=Path, help="folders of group B")
    parser.add_argument("--by", **several, metavar="KEY", help="keys that tell arms apart")
    parser.add_argument("--baseline", **several, metavar="OVERRIDE", help="such as tracker=off")
    parser.add_argument("--equivalent", **several, default=[], metavar="METRIC=MARGIN")
    for form in (*FORMS, "png"):
        parser.add_argument(f"--{form}", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    of_sweep = bool(options.by and options.baseline) and len(options.runs) == 1
    if of_sweep == bool(options.against) or bool(options.by) != bool(options.baseline):
        fail("compare: needs FOLDER... --against FOLDER..., or SWEEP --by KEY --baseline OVERRIDE")
    margins = parse_margins(options.equivalent)
    if of_sweep:
        compared = compare_arms(options.runs[0], options.by, options.baseline, margins)
    else:
        compared = compare_two(options.runs, options.against, margins)
    print_comparison(compared, Console())
    files = {form: getattr(options, form) for form in FORMS if getattr(options, form)}
    written = write_tables(compared, files)
    for path in [*written, *([write_forest(compared, options.png)] if options.png else [])]:
        print(f"written: {path}")


def _show(words: list[str]) -> None:
    parser = _parser("show FOLDER [--reference]")
    parser.add_argument("run", type=Path, help="its folder")
    parser.add_argument("--reference", action="store_true", help="beside the published runs")
    options = parser.parse_args(words)
    try:
        print_summary(options.run, wide(Console()), options.reference)
    except FileNotFoundError as error:
        fail(f"{options.run}: holds no finished run ({error.filename} is missing)")


if __name__ == "__main__":
    main()
