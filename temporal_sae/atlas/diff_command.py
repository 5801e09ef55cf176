"""Compare two atlases: of two SAEs, two checkpoints of one, or two texts.

    python -m temporal_sae.atlas diff A B [--output FOLDER]

A and B are the folders of atlases, or of runs that have one. Latents of one SAE are compared by
their numbers, and those of two by their decoder directions: each with the one that is its nearest
and whose nearest it is, if the cosine is at least .7. Pairs that fire together more or less often
are written to diff.parquet, latents to diff_latents.parquet, in B or the folder of --output;
docs/atlas.md says what their columns mean. Exit codes: 0 it is done, 2 wrong input.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from temporal_sae.atlas.command import held, print_log, told_of
from temporal_sae.atlas.folder import LATENTS, Atlas
from temporal_sae.commands import Parser, exit_on_mistakes
from temporal_sae.errors import RunError, check_number

if TYPE_CHECKING:
    from temporal_sae.atlas.match import Matches

log = logging.getLogger(__name__)

PAIRS_NAME, LATENTS_NAME = "diff.parquet", "diff_latents.parquet"
N_LINES = 10
NEEDED = ("n", "fano_factor", "top_tokens", "nearest_by_cosine", "nearest_cosines")
MATCHES = ("auto", "number", "cosine")


def main(arguments: list[str]) -> None:
    """Parse the words after `diff`, and compare."""
    parser = Parser(
        prog="python -m temporal_sae.atlas diff",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", type=Path, help="an atlas, or a run with one")
    parser.add_argument("b", type=Path, help="another")
    parser.add_argument("--output", type=Path, help="a folder for the tables (that of B)")
    parser.add_argument("--min-z", type=float, default=3.0, help="|z| of a listed pair (3)")
    parser.add_argument(
        "--match", choices=MATCHES, default="auto", help="latents by number or by cosine (auto)"
    )
    parser.add_argument("--sae-a", type=Path, metavar="FOLDER", help="of the SAE of A")
    parser.add_argument("--sae-b", type=Path, metavar="FOLDER", help="of the SAE of B")
    options = parser.parse_args(arguments)
    print_log()
    with exit_on_mistakes():
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Write both tables, and print what differs most.

    Raises:
        InvalidOption, RunError: something a person can correct.
    """
    # Slow to import, and not for --help.
    from temporal_sae.atlas.diff import (
        LATENTS_SCHEMA,
        PAIRS_SCHEMA,
        latent_differences,
        pair_differences,
    )
    from temporal_sae.atlas.pairs import write_table

    check_number("--min-z", options.min_z)
    a, b = opened(options.a), opened(options.b)
    output: Path = options.output or b.folder
    matches = matched(a, b, options)
    how = "number" if matches.cosine is None else "cosine"
    log.info(
        "%s of %s latents have a counterpart among %s, by %s",
        *(f"{n:,}" for n in (len(matches.a), len(a.latents), len(b.latents))),
        how,
    )
    facts = {
        "a": str(a.folder),
        "b": str(b.folder),
        "n_tokens": [atlas.facts["n_tokens"] for atlas in (a, b)],
        "match": how,
        "min_z": options.min_z,
    }
    latents = latent_differences(a, b, matches)
    pairs = pair_differences(a, b, matches, options.min_z)
    with held(output), told_of(output):
        write_table(output / LATENTS_NAME, [latents], LATENTS_SCHEMA, facts)
        write_table(output / PAIRS_NAME, [pairs], PAIRS_SCHEMA, facts)
    for line in lines(a, latents, pairs):
        log.info("%s", line)
    log.info("%s pairs: %s", f"{len(pairs):,}", output / PAIRS_NAME)


def opened(folder: Path) -> Atlas:
    """Return the atlas in a folder, or in that of a run.

    Raises:
        RunError: there is none.
    """
    from temporal_sae.atlas.columns import require  # slow to import

    below = folder / "atlas"
    atlas = Atlas(below if (below / LATENTS).exists() else folder)
    _ = atlas.facts
    require(atlas.folder / LATENTS, atlas.latents, NEEDED)
    return atlas


def matched(a: Atlas, b: Atlas, options: argparse.Namespace) -> Matches:
    """Return which latents are compared.

    Raises:
        RunError: the numbers of latents differ, or an SAE is not found.
    """
    from temporal_sae.atlas.match import Matches, directions_of, of_one_sae  # slow to import

    by_number = options.match == "number"
    if by_number or (options.match == "auto" and of_one_sae(a, b)):
        return Matches.by_number(a, b)
    one = directions_of(a, options.sae_a, "--sae-a")
    two = directions_of(b, options.sae_b, "--sae-b")
    if one.shape[1] != two.shape[1]:
        told = f"has latents of width {two.shape[1]}, must be {one.shape[1]} as in {a.folder}"
        raise RunError(f"{b.folder}: {told}; --match=number goes without directions")
    return Matches.by_cosine(one, two)


def lines(a: Atlas, latents: pa.Table, pairs: pa.Table) -> Iterator[str]:
    """Yield what differs most."""
    tokens = a.latents["top_tokens"].to_pylist()

    def named(latent: int) -> str:
        own = tokens[latent]
        return f"{latent} {own[0]!r}" if own else str(latent)

    yield "latents whose density has changed most:"
    for row in largest(latents, "z"):
        change = f"{row['density_a']:.3g} to {row['density_b']:.3g}"
        yield f"  z {row['z']:+.1f}  {change}  {named(row['latent'])}"
    yield "pairs whose firing together has changed most, against chance (φ):"
    for row in largest(pairs, "z_lift"):
        change = " to ".join(
            f"{row[f'phi_{side}']:.3g}" if row[f"n_ij_{side}"] is not None else "few"
            for side in "ab"
        )
        yield f"  z {row['z_lift']:+.1f}  {change}  {named(row['i'])} and {named(row['j'])}"


def largest(table: pa.Table, name: str) -> list[dict[str, Any]]:
    """Return the rows of the largest z, in size."""
    z = np.abs(table[name].to_numpy())
    order = np.argsort(-z, kind="stable")[:N_LINES]  # NaN comes last
    return table.take(pa.array(order[z[order] > 0])).to_pylist()
