"""Show how far a sweep is, and collect its results.

    python -m temporal_sae.sweep FOLDER [--watch]
    python -m temporal_sae.sweep work FOLDER        a worker, as launchers start it

Prints a row per job (state, step, tokens/s, loss, time left, changes, why it has failed) and
the command that does what is missing, and writes sweep.csv and sweep_full.parquet in the folder. It
only reads what the jobs have written, so it may be called while they run. Exit codes: 0 all jobs
are finished, 2 there is no sweep, 4 some are not.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from temporal_sae import signals
from temporal_sae.cli import SWEEP_INCOMPLETE
from temporal_sae.commands import Parser, exit_on_mistakes, let_readers_leave
from temporal_sae.errors import RunError, printable
from temporal_sae.report.sweep_build import build_sweep_report
from temporal_sae.report.sweep_facts import JobStatus
from temporal_sae.report.sweep_progress import LiveTable, print_table, say, summary
from temporal_sae.report.sweep_summary import say_last_words
from temporal_sae.report.sweep_table import CSV, collect
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.status import is_held, read_sweep

SECONDS_BETWEEN_LOOKS = 0.5
GOES_ON = ("running", "queued")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, show the sweep and collect it."""
    words = sys.argv[1:] if arguments is None else arguments
    let_readers_leave()
    with signals.ending():
        if words[:1] == ["work"]:
            with signals.held():
                from temporal_sae.sweep.worker import main as work  # slow to import

            work(words[1:])
        else:
            look(words)


def look(words: list[str]) -> None:
    """Show the sweep that a command line names, and exit with what it has come to."""
    parser = Parser(
        prog="python -m temporal_sae.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of the sweep")
    parser.add_argument("--watch", action="store_true", help="go on until no job runs any more")
    options = parser.parse_args(words)
    with exit_on_mistakes():
        statuses = show(options.folder, watch=options.watch)
    if any(status.state != "finished" for status in statuses):
        sys.exit(SWEEP_INCOMPLETE)


def show(folder: Path, *, watch: bool) -> list[JobStatus]:
    """Print the sweep's table and write its results; returns the state of its jobs."""
    sweep, console = SweepFolder(folder), Console()
    if not sweep.exists():
        raise RunError(f"{folder}: holds no sweep")
    if watch:
        if not console.is_terminal:  # where there is no table, only changes are told from now on
            say(summary(read_sweep(folder)), console)
        with LiveTable(lambda: read_sweep(folder), console) as table:
            while is_held(folder) or any(s.state in GOES_ON for s in read_sweep(folder)):
                time.sleep(SECONDS_BETWEEN_LOOKS)
                table.update()
    statuses = read_sweep(folder)
    print_table(statuses, console)
    collect(folder, statuses)
    command = sweep.read()["command"]
    build_sweep_report(folder, statuses, command)
    say_last_words(folder, statuses, console)
    if all(status.state != "finished" for status in statuses):  # or else it has been said
        print(f"written: {folder / CSV}")
    if any(status.state != "finished" for status in statuses) and not is_held(folder):
        print(f"to do what is missing: {printable(command)}")
    return statuses


if __name__ == "__main__":
    main()
