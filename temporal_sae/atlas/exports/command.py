"""Write a finished atlas in the format of another tool.

    python -m temporal_sae.atlas export neuronpedia ATLAS_FOLDER [--output FOLDER] [options]
    python -m temporal_sae.atlas export saedashboard ATLAS_FOLDER [--output FOLDER] [options]

The first writes OUTPUT/MODEL_ID/LAYER-SOURCE_SET, as Neuronpedia imports it; the second
OUTPUT/MODEL_ID_SOURCE_SET_HOOK/batch-N.json, as SAEDashboard leaves it. A folder of an earlier
export is replaced once the new one is whole. Decoder vectors come from the SAE whose folder holds
the atlas, or from --sae. Exit codes: 0 it is done, 2 wrong input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from temporal_sae.atlas.command import print_log
from temporal_sae.commands import Parser, exit_on_mistakes

FORMATS = ("neuronpedia", "saedashboard")
VISIBILITIES = ("PUBLIC", "UNLISTED", "PRIVATE")
NEURONPEDIAS_OWN = "clkht01d40000jv08hvalcvly"  # the creator that its converter names by default


def main(arguments: list[str]) -> None:
    """Parse the words after `export`, and write what they ask for."""
    parser = Parser(
        prog="python -m temporal_sae.atlas export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("folder", type=Path, help="of the atlas")
    add = parser.add_argument
    add("--output", type=Path, help="a folder for the exports (ATLAS_FOLDER/exports)")
    add("--sae", type=Path, help="folder of the SAE or of its run (that which holds the atlas)")
    add("--no-vectors", action="store_true", help="leave the decoder vectors out")
    add("--model-id", help="as Neuronpedia calls the model (the end of its name)")
    add("--source-set", help="name of the SAEs of one kind (the atlas's title)")
    add("--layer", type=int, help="of the SAE (that of the hook)")
    add("--creator-id", default=NEURONPEDIAS_OWN, help="(the one of Neuronpedia's own imports)")
    add("--creator-name", default="unknown", help="(unknown)")
    add("--release", help="name of the release (the source set)")
    add("--dataset", help="name of the text on the Hugging Face hub (none)")
    add("--tokens-in-prompt", type=int, help="tokens read at once (as the SAE was trained)")
    add("--hf-repo", help="of the weights on the Hugging Face hub (none)")
    add("--hf-folder", help="of the weights in it (none)")
    add("--visibility", choices=VISIBILITIES, default=VISIBILITIES[0], help="(PUBLIC)")
    add("--batch-size", type=int, default=128, help="latents in a file (128)")
    options = parser.parse_args(arguments)
    print_log()
    from temporal_sae.atlas.exports.write import export  # slow to import, and not for --help

    with exit_on_mistakes():
        export(options)
