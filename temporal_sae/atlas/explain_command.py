"""Add explanations of latents to a finished atlas.

    python -m temporal_sae.atlas explain ATLAS_FOLDER FILE.jsonl[.gz]...

The files are Neuronpedia's (`explanations/batch-N.jsonl.gz`) or have its fields, one JSON object a
line: index, description, and modelId, layer, typeName, explanationModelName, scores where they are
known. They are added to explanations.jsonl; of a latent's explanations of one type the last one is
kept. Exit codes: 0 it is done, 2 wrong input, and then nothing has been added.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from temporal_sae.atlas.command import held, print_log, told_of
from temporal_sae.atlas.explanations import explanations_in, merged, write_explanations
from temporal_sae.atlas.folder import Atlas
from temporal_sae.commands import Parser, exit_on_mistakes
from temporal_sae.errors import RunError

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Parse the words after `explain`, and add what the files hold."""
    parser = Parser(
        prog="python -m temporal_sae.atlas explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of the atlas")
    parser.add_argument("file", type=Path, nargs="+", help="of Neuronpedia, or with its fields")
    options = parser.parse_args(arguments)
    print_log()
    with exit_on_mistakes():
        explain(options.folder, options.file)


def explain(folder: Path, files: list[Path]) -> None:
    """Add the explanations that files hold to those of an atlas.

    Raises:
        RunError: the folder holds no atlas, or a line of a file does not fit.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such folder")
    # Slow to import, and not for --help.
    from temporal_sae.atlas import site
    from temporal_sae.atlas.exports.origin import layer_of

    with held(folder), told_of(folder):
        atlas = Atlas(folder)
        n_latents, layer = atlas.latents.num_rows, layer_of(atlas.facts.get("hook_name"))
        known: set[str] = set()
        new = [one for file in files for one in explanations_in(file, n_latents, layer, known)]
        kept = merged(atlas.explanations, new)
        write_explanations(folder, kept)
        if (folder / "site").is_dir():
            site.write_explanations(Atlas(folder), folder)
    n_explained = len({one["latent"] for one in kept})
    log.info("%s explanations; %s of %s latents have one", len(kept), n_explained, n_latents)
