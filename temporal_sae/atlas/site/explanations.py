"""Explanations of latents in words, in a file of their own: they may come after the site."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from temporal_sae.atlas.folder import Atlas
from temporal_sae.atlas.site import encode
from temporal_sae.files import write_atomically

TEXTS = {"description": "descriptions", "typeName": "types", "explanationModelName": "models"}


def write_explanations(atlas: Atlas, folder: Path) -> None:
    """Write the explanations of an atlas into the site in a folder; mostly there are none."""
    found = atlas.explanations
    columns: dict[str, encode.Encoded | np.ndarray] = {
        "latent": np.array([one["latent"] for one in found], np.int64),
        "score": np.array([one["score"] for one in found], np.float32),
    }
    for field, name in TEXTS.items():
        columns[name] = [one[field] for one in found]  # type: ignore[literal-required]
    content = encode.script("explanations", encode.table(columns))
    write_atomically(folder / "site" / "explanations.js", content)
