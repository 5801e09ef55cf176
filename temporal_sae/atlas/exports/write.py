"""Write the export that a command line asks for."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from temporal_sae.atlas.command import Lines, told_of
from temporal_sae.atlas.exports import neuronpedia, saedashboard
from temporal_sae.atlas.exports.contents import Contents
from temporal_sae.atlas.exports.origin import (
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
