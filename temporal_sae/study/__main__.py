"""Run the experiments behind docs/study.md, or write that page from their tables.

    python -m temporal_sae.study run NAME [--folder FOLDER] [--data FOLDER] [key=value ...]
    python -m temporal_sae.study describe RUN [--data FOLDER]
    python -m temporal_sae.study report [--data FOLDER] [--page FILE]

`run` does what is missing of a study: first the tuning of every arm's weight on seeds of its own,
then the runs that count. Further overrides go to its sweeps, such as hydra.launcher.workers=1 or
hydra/launcher=slurm. Its design is fixed, with a hash, by the first call. `describe` writes the
table of the bursts of a run's latents, whose atlas must be there. `report` writes the page and its
figures, the same bytes from the same tables. Exit codes: 0 done, 2 wrong input or some runs have
failed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from temporal_sae import signals
from temporal_sae.commands import Parser, exit_on_mistakes, let_readers_leave
from temporal_sae.errors import check_choice
from temporal_sae.study.designs import DESIGNS, PREDICTIONS
from temporal_sae.study.page import INTRODUCTION, write_page
from temporal_sae.study.run import run_study

DATA, PAGE, FOLDER = Path("docs/study"), Path("docs/study.md"), Path("multirun/study")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and obey it."""
    let_readers_leave()
    options = parsed(arguments)
    with signals.ending(), exit_on_mistakes():
        if options.command == "report":
            introduction = INTRODUCTION.read_text()
            designs = tuple(DESIGNS.values())
            write_page(designs, options.data, introduction, options.page, PREDICTIONS)
            print(f"written: {options.page}")
            return
        if options.command == "describe":
            from temporal_sae.study.bursts import describe

            print(f"written: {describe(options.run, options.data)}")
            return
        name = check_choice("NAME", options.name, tuple(DESIGNS))
        run_study(DESIGNS[name], options.folder, options.data, options.overrides)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = Parser(
        prog="python -m temporal_sae.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    run = commands.add_parser("run", help="do what is missing of a study")
    run.add_argument("name", metavar="NAME", help=f"one of {', '.join(DESIGNS)}")
    run.add_argument("overrides", nargs="*", help="for its sweeps, key=value")
    run.add_argument("--folder", type=Path, default=FOLDER, help="of its sweeps")
    describe = commands.add_parser("describe", help="tell of the bursts of a run's latents")
    describe.add_argument("run", type=Path, help="its folder")
    report = commands.add_parser("report", help="write the page")
    report.add_argument("--page", type=Path, default=PAGE)
    for command in (run, describe, report):
        command.add_argument("--data", type=Path, default=DATA, help="of the tables")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
