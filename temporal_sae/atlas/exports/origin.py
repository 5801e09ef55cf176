"""Names under which an atlas is known to another tool, and the SAE that it was made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from temporal_sae.atlas.folder import LATENTS, Atlas
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval.__main__ import facts_of_dictionary_learning, facts_of_sae_lens
from temporal_sae.files import read_json
from temporal_sae.registry import components

HOOK = re.compile(r"blocks\.(\d{1,9})\.")
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,127}", re.ASCII)
SIMILAR = 1e-3  # cosines in the atlas are of float32, and rounded
PROBED = 64


@dataclass(frozen=True)
class Origin:
    """The names of an export, and facts that the other tool asks for.

    Attributes:
        model_id, source_set, layer: together they name the SAE.
        hook_name: the place in the model; None where that is not known.
        title: a few words.
        creator_id, creator_name: of whoever shows it.
        release: of which the source set is a part.
        dataset: name of the text.
        n_prompts, tokens_in_prompt: how the text was read; None where that is not known.
        hf_repo, hf_folder: where the weights are on the Hugging Face hub.
        visibility: PUBLIC, UNLISTED or PRIVATE.
        owner: of the model.
        sae_config: `cfg.json` of the SAE.
    """

    model_id: str
    source_set: str
    layer: int
    hook_name: str | None
    title: str
    creator_id: str
    creator_name: str
    release: str
    dataset: str | None
    n_prompts: int | None
    tokens_in_prompt: int | None
    hf_repo: str | None
    hf_folder: str | None
    visibility: str
    owner: str
    sae_config: dict[str, Any] | None

    @property
    def source_id(self) -> str:
        """The SAE's name within the model."""
        return f"{self.layer}-{self.source_set}"


def as_name(text: str) -> str:
    """Return a text as a name that may stand in paths and addresses."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:128] or "unnamed"


def checked_name(option: str, name: str) -> str:
    """Return a name that was typed.

    Raises:
        InvalidOption: it may not stand in a path.
    """
    if not NAME.fullmatch(name):
        raise InvalidOption(option, name, "letters, digits, and -, _, . between them")
    return name


def layer_of(hook_name: str | None) -> int | None:
    """Return the layer that the name of a place begins with, None if it does not."""
    found = HOOK.match(hook_name or "")
    return int(found[1]) if found else None


def first_of(*values: Any) -> Any:
    """Return the first of some values that is not None; None where all are."""
    return next((value for value in values if value is not None), None)


def given(option: str, *values: Any) -> Any:
    """Return the first of some values that is not None.

    Raises:
        RunError: all are.
    """
    found = first_of(*values)
    if found is None:
        raise RunError(f"{option}: must be given, as the atlas does not say it")
    return found


def sae_folder_of(atlas: Path, typed: Path | None) -> Path:
    """Return the folder of the SAE: what is typed, or the run or SAE whose folder holds the atlas.

    Raises:
        RunError: there is none.
    """
    if typed is not None:
        inside = typed / "sae"
        return inside if inside.is_dir() else typed
    above = atlas.absolute().parent
    for folder in (above / "sae", above):
        if any((folder / form.weights).is_file() for form in components("format")):
            return folder
    advice = "--sae names the folder, --no-vectors does without"
    raise RunError(f"{above}: holds no SAE, whose decoder is exported; {advice}")


def facts_of(folder: Path) -> dict[str, Any]:
    """Return what the config of an SAE says of its place and text."""
    return facts_of_sae_lens(folder) or facts_of_dictionary_learning(folder)


def config_of(folder: Path) -> dict[str, Any] | None:
    """Return `cfg.json` of an SAE; None where there is none."""
    try:
        found = read_json(folder / "cfg.json")
    except FileNotFoundError:
        return None
    return found if isinstance(found, dict) else None


def decoder_of(folder: Path, atlas: Atlas) -> np.ndarray:
    """Return the decoder rows of the SAE that an atlas was made of.

    Raises:
        RunError: the folder holds another one.
    """
    from temporal_sae.sae import load_sae

    decoder = load_sae(folder).W_dec.detach().float().cpu().numpy()
    table, other = atlas.latents, f"{folder}: is not the SAE that {atlas.folder} was made of"
    if len(decoder) != table.num_rows:
        raise RunError(f"{other}; it has {len(decoder)} latents, {LATENTS} {table.num_rows}")
    own = table.slice(0, PROBED)
    unit = decoder / np.maximum(np.linalg.norm(decoder, axis=1, keepdims=True), 1e-12)
    columns = (own["nearest_by_cosine"].to_pylist(), own["nearest_cosines"].to_pylist())
    for latent, (nearest, cosines) in enumerate(zip(*columns, strict=True)):
        known = max(nearest, default=0) < len(unit)
        if not known or not np.allclose(unit[nearest] @ unit[latent], cosines, atol=SIMILAR):
            raise RunError(f"{other}; its directions are others")
    return np.asarray(decoder)
