"""Measure what the language model loses without a latent, and add it to a finished atlas.

    python -m temporal_sae.atlas ablate FOLDER [--latents 0-99] [--examples 5] [key=value ...]

FOLDER and the options key=value are those that the atlas was built with. At the top examples of
each latent its part of the activations is taken away; ablation_loss and ablation_kl, in nats, go
into examples.parquet, and their means into latents.parquet. What was measured before stays, so that
latents can be done some at a time. Exit codes: 0 it is done, 2 wrong input.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from temporal_sae.atlas.command import Lines, held, print_log, told_of
from temporal_sae.commands import Parser, exit_on_mistakes
from temporal_sae.errors import InvalidOption, RunError, check_int

N_EXAMPLES = 5
SPAN = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


def main(arguments: list[str]) -> None:
    """Parse the words after `ablate`, and do what they ask for."""
    parser = Parser(
        prog="python -m temporal_sae.atlas ablate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of a run or of an SAE")
    parser.add_argument("overrides", nargs="*", help="key=value options, as of the atlas")
    parser.add_argument("--atlas", type=Path, help="its folder (FOLDER/atlas)")
    parser.add_argument("--latents", help="such as 0-99 or 3,5,10-20 (all)")
    parser.add_argument(
        "--examples", type=int, default=N_EXAMPLES, help=f"of each latent ({N_EXAMPLES})"
    )
    options = parser.parse_intermixed_args(arguments)
    print_log()
    with exit_on_mistakes(traceback="debug=true" in options.overrides):
        run(options)


def run(options: argparse.Namespace) -> None:
    """Ablate what the command line asks for.

    Raises:
        InvalidOption, RunError: something a person can correct.
    """
    check_int("--examples", options.examples, 1)
    folder: Path = options.folder
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such folder")
    from temporal_sae.atlas.__main__ import opened_pass
    from temporal_sae.atlas.ablation_columns import ablate
    from temporal_sae.atlas.folder import Atlas
    from temporal_sae.atlas.site import rewrite_latents
    from temporal_sae.experiment.determinism import deterministic_on_cpu

    own: Path = options.atlas or folder / "atlas"
    n_latents = Atlas(own).latents.num_rows  # first: it may not be there
    latents = None if options.latents is None else latents_in(options.latents, n_latents)
    with held(own), told_of(own):
        sae, source, _ = opened_pass(folder, options.overrides, own)
        with deterministic_on_cpu(source.device):
            ablate(own, sae, source, options.examples, latents, show=Lines().show)
        if (own / "site").is_dir():
            rewrite_latents(Atlas(own), own)


def latents_in(text: str, n_latents: int) -> list[int]:
    """Return the latents that spans such as 3,5,10-20 name.

    Raises:
        InvalidOption: it names none, or some that there are not.
    """
    found: list[int] = []
    for span in text.split(","):
        match = SPAN.fullmatch(span.strip())
        lo, hi = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not lo <= hi < n_latents:
            allowed = f"numbers or spans such as 3,5,10-20, from 0 to {n_latents - 1}"
            raise InvalidOption("--latents", text, allowed)
        found += range(lo, hi + 1)
    return found
