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
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from temporal_sae.atlas.command import Lines, print_log, told_of
from temporal_sae.atlas.exports import neuronpedia, saedashboard
from temporal_sae.atlas.exports.contents import Contents
from temporal_sae.atlas.exports.origin import (
    NEURONPEDIAS_OWN,
    VISIBILITIES,
    Origin,
    as_name,
    checked_name,
    config_of,
    decoder_of,
    facts_of,
    first_of,
    given,
    layer_of,
    sae_folder_of,
)
from temporal_sae.atlas.folder import Atlas
from temporal_sae.commands import Parser, exit_on_mistakes
from temporal_sae.errors import RunError, check_int
from temporal_sae.files import replace_folder

log = logging.getLogger(__name__)


class Format(NamedTuple):
    """A format of another tool.

    Attributes:
        write: fills a folder.
        first: a file that tells an export from any other folder.
        path: of the folder, below the output.
    """

    write: Callable[..., None]
    first: str
    path: Callable[[Origin], Path]


FORMATS = {
    "neuronpedia": Format(
        neuronpedia.write_neuronpedia,
        neuronpedia.SOURCE,
        lambda origin: Path(origin.model_id, origin.source_id),
    ),
    "saedashboard": Format(
        saedashboard.write_saedashboard,
        saedashboard.FIRST,
        lambda origin: Path(
            as_name(f"{origin.model_id}_{origin.source_set}_{origin.hook_name or ''}")
        ),
    ),
}


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
    with exit_on_mistakes():
        export(options)


def export(options: argparse.Namespace) -> None:
    """Write the export that the command line asks for.

    Raises:
        InvalidOption, RunError: something a person can correct.
    """
    check_int("--batch-size", options.batch_size, 1)
    if not options.folder.is_dir():
        raise RunError(f"{options.folder}: there is no such folder")
    atlas, form = Atlas(options.folder), FORMATS[options.format]
    sae = None if options.no_vectors else sae_folder_of(options.folder, options.sae)
    origin = origin_of(options, atlas, sae)
    contents = Contents(atlas, None if sae is None else decoder_of(sae, atlas))
    output: Path = options.output or options.folder / "exports"
    folder, progress = output / form.path(origin), Lines()
    if os.path.lexists(folder) and not (folder / form.first).is_file():
        raise RunError(f"{folder}: is there and is no such export; remove it, or give --output")
    with told_of(output):
        folder.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(
            folder,
            lambda temporary: form.write(
                temporary,
                contents,
                origin,
                options.batch_size,
                lambda done: progress.show("latents", done, contents.n_latents),
            ),
        )
    log.info("%s latents: %s", f"{contents.n_latents:,}", folder)


def origin_of(options: argparse.Namespace, atlas: Atlas, sae: Path | None) -> Origin:
    """Return the names of the export: what is typed, else what the atlas and the SAE say."""
    facts = atlas.facts
    model_name, hook_name = facts.get("model_name"), facts.get("hook_name")
    title = facts.get("title") or "temporal_sae"
    of_sae = {} if sae is None else facts_of(sae)
    in_prompt = first_of(options.tokens_in_prompt, of_sae.get("activations.context_size"))
    if in_prompt is not None:
        check_int("--tokens-in-prompt", in_prompt, 1)
    model_id = given("--model-id", options.model_id, model_name and as_name(Path(model_name).name))
    layer = given("--layer", options.layer, layer_of(hook_name))
    source_set = checked_name("--source-set", first_of(options.source_set, as_name(title)))
    return Origin(
        model_id=checked_name("--model-id", model_id),
        source_set=source_set,
        layer=check_int("--layer", layer, 0),
        hook_name=hook_name,
        title=title,
        creator_id=options.creator_id,
        creator_name=options.creator_name,
        release=first_of(options.release, source_set),
        dataset=options.dataset,
        n_prompts=-(-facts["n_tokens"] // in_prompt) if in_prompt else None,
        tokens_in_prompt=in_prompt,
        hf_repo=options.hf_repo,
        hf_folder=options.hf_folder,
        visibility=options.visibility,
        owner=str(Path(model_name or "").parent.name) or options.creator_name,
        sae_config=None if sae is None else config_of(sae),
    )
