"""Compare two groups of finished runs that share their seeds.

    python -m temporal_sae.report compare FOLDER... --against FOLDER...

Every score that both groups have is compared in pairs of equal seed (A - B), with a 95 % interval
over seeds. A difference is called an improvement only where its interval excludes zero. Exit codes:
0 compared, 2 wrong input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from temporal_sae import signals
from temporal_sae.commands import Parser, fail, let_readers_leave
from temporal_sae.errors import RunError
from temporal_sae.report.paired import compare_runs, print_comparison

NOT_A_TERMINAL_WIDTH = 120


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and print the comparison."""
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
    options = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=NOT_A_TERMINAL_WIDTH)
    try:
        comparison = compare_runs(options.runs, options.against)
    except RunError as error:
        fail(str(error))
    print_comparison(comparison, console)


if __name__ == "__main__":
    main()
