"""Show a finished run, or compare two groups of finished runs that share their seeds.

    python -m temporal_sae.report show FOLDER [--reference]
    python -m temporal_sae.report compare FOLDER... --against FOLDER...

`show` prints the table of a run's end again, with --reference beside the published runs on
gemma-2-2b. `compare` compares every score that both groups have in pairs of equal seed (A - B),
with a 95 % interval over seeds. A difference is called an improvement only where its interval
excludes zero. Exit codes: 0 shown or compared, 2 wrong input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from temporal_sae import signals
from temporal_sae.commands import Parser, exit_on_mistakes, fail, let_readers_leave
from temporal_sae.report.build import print_summary
from temporal_sae.report.paired import compare_runs, print_comparison
from temporal_sae.terminal import wide


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and print what is asked for."""
    let_readers_leave()
    with signals.ending():
        _main(arguments)


def _main(arguments: list[str] | None) -> None:
    parser = Parser(
        prog="python -m temporal_sae.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    compare = commands.add_parser("compare", help="two groups of runs, paired by seed")
    compare.add_argument("runs", nargs="+", type=Path, help="folders of group A")
    compare.add_argument("--against", nargs="+", type=Path, required=True, help="of group B")
    show = commands.add_parser("show", help="the table of a finished run")
    show.add_argument("run", type=Path, help="its folder")
    show.add_argument("--reference", action="store_true", help="beside the published runs")
    options = parser.parse_args(arguments)
    console = wide(Console())
    with exit_on_mistakes():
        if options.command == "compare":
            print_comparison(compare_runs(options.runs, options.against), console)
            return
        try:
            print_summary(options.run, console, options.reference)
        except FileNotFoundError as error:
            fail(f"{options.run}: holds no finished run ({error.filename} is missing)")


if __name__ == "__main__":
    main()
