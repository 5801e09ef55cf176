"""Stores of activations on disk, and what jobs need where there is no network.

    python -m temporal_sae.activations build activations.path=FOLDER model=NAME data=NAME ...
    python -m temporal_sae.activations list [FOLDER]
    python -m temporal_sae.activations verify FOLDER
    python -m temporal_sae.activations prune FOLDER [--keep-bytes N] [--older-than DAYS] [--yes]
    python -m temporal_sae.activations fetch FOLDER [--documents N] model=NAME data=NAME ...
    python -m temporal_sae.activations check [--online] [--load] model=NAME data=NAME ...

`build` takes what launch.py takes and makes a store without training anything; one that is
unfinished is continued. `list` tells of every store below a folder. `verify` reads a store as a
whole. `prune` says which stores below a folder it would delete, those first that were used longest
ago, and deletes them with --yes; one that is in use stays.

`fetch` brings model, text and SAEBench's data sets from the hub into a folder, and prints how a job
uses them. `check` says line by line whether everything is there that a job needs.

Exit codes: 0 all is done, 2 wrong input or something is missing, 3 a store is damaged or
unfinished.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from temporal_sae import signals
from temporal_sae.activations import check, fetch
from temporal_sae.commands import Parser, exit_on_mistakes, let_readers_leave
from temporal_sae.errors import InvalidOption, RunError, printable
from temporal_sae.explain import composed

DAMAGED = 3
GROUP, STORE = "activations", "store"


def main(arguments: list[str] | None = None) -> None:
    """Obey one command."""
    let_readers_leave()
    with signals.ending():
        options = parsed(arguments)
        logging.basicConfig(
            level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True
        )
        logging.getLogger("temporal_sae").setLevel(logging.INFO)
        with exit_on_mistakes(traceback="debug=true" in getattr(options, "overrides", ())):
            options.do(options)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command with its options, as typed."""
    parser = Parser(
        prog="python -m temporal_sae.activations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="build|list|verify|prune|fetch|check")
    building = commands.add_parser("build", help="make a store without training anything")
    building.add_argument("overrides", nargs="*", metavar="key=value", help="as launch.py has them")
    building.set_defaults(do=build)
    listing = commands.add_parser("list", help="tell of every store below a folder")
    listing.add_argument("folder", nargs="?", default=".", type=Path)
    listing.set_defaults(do=show)
    verifying = commands.add_parser("verify", help="read a store as a whole")
    verifying.add_argument("folder", type=Path)
    verifying.set_defaults(do=verify)
    pruning = commands.add_parser("prune", help="delete stores")
    pruning.add_argument("folder", type=Path)
    pruning.add_argument("--keep-bytes", type=number, help="delete until so many are left")
    pruning.add_argument("--older-than", type=number, metavar="DAYS", help="not used for so long")
    pruning.add_argument("--yes", action="store_true", help="delete, and do not only say so")
    pruning.set_defaults(do=prune)
    fetch.add_commands(commands)
    check.add_commands(commands)
    # Key=value behind an option is left over, once those before it have been taken.
    options, left = parser.parse_known_args(arguments)
    if left and ("overrides" not in options or any(word.startswith("-") for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        options.overrides += left
    return options


def number(text: str) -> float:
    """Return a number of at least 0, such as 1e9."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


def build(options: argparse.Namespace) -> None:
    """Make what is missing of a store."""
    from temporal_sae.activations.store.care import about
    from temporal_sae.activations.store.folder import StoreFolder
    from temporal_sae.experiment.build import check_keys, choose_device
    from temporal_sae.experiment.components import load_plugins
    from temporal_sae.experiment.construct import plain
    from temporal_sae.experiment.source import build_source, open_source

    for word in options.overrides:
        key, _, value = word.partition("=")
        if key == GROUP and value != STORE:
            raise InvalidOption(key, value, f"{STORE}, or left out")
    cfg = composed([f"{GROUP}={STORE}", *(w for w in options.overrides if w != f"{GROUP}={STORE}")])
    check_keys(cfg)
    load_plugins(cfg.plugins)
    folder = Path(plain(cfg.activations)["path"]).expanduser()
    open_source(build_source(cfg, choose_device(cfg.device), folder))
    if found := about(StoreFolder(folder)):
        print(found.line())


def show(options: argparse.Namespace) -> None:
    """Print a line for every store."""
    from temporal_sae.activations.store.care import stores_below

    found = stores_below(options.folder)
    for store in found:
        print(store.line())
    if not found:
        print(f"{options.folder}: no stores in it")


def verify(options: argparse.Namespace) -> None:
    """Print what is damaged."""
    from temporal_sae.activations.store.care import problems_of
    from temporal_sae.activations.store.folder import StoreFolder

    is_whole = True
    for problem in problems_of(StoreFolder(options.folder)):
        print(f"error: {printable(problem)}", file=sys.stderr)
        is_whole = False
    if not is_whole:
        sys.exit(DAMAGED)
    print(f"{options.folder}: every shard is there and as it was written")


def prune(options: argparse.Namespace) -> None:
    """Delete stores, or say which."""
    from temporal_sae.activations.store.care import delete, stores_below, to_go

    if options.keep_bytes is None and options.older_than is None:
        raise RunError("prune: needs --keep-bytes N or --older-than DAYS")
    going = to_go(stores_below(options.folder), options.keep_bytes, options.older_than)
    for store in going:
        if not options.yes:
            print(f"would be deleted: {store.line()}")
        elif delete(store.folder):
            print(f"deleted: {store.folder.path}")
        else:
            print(f"kept, since it is in use: {store.folder.path}")
    if not going:
        print(f"{options.folder}: nothing to delete")
    elif not options.yes:
        print("to delete them, repeat the command with --yes")


if __name__ == "__main__":
    main()
