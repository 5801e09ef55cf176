"""Explanations of latents in words, in a file of their own: they may come after the site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from temporal_sae.atlas.site import encode
from temporal_sae.errors import RunError
from temporal_sae.files import parse_json, write_atomically

EXPLANATIONS = "explanations.jsonl"
TEXTS = {"description": "descriptions", "typeName": "types", "explanationModelName": "models"}


def write_explanations(folder: Path) -> None:
    """Write the explanations of an atlas into its site; none where there are none.

    Raises:
        RunError: a line of `explanations.jsonl` is no explanation.
    """
    found = sorted(explanations(folder / EXPLANATIONS), key=lambda one: one["latent"])
    columns: dict[str, encode.Encoded | np.ndarray] = {
        "latent": np.array([one["latent"] for one in found], np.int64),
        "score": np.array([score_of(one) for one in found], np.float32),
    }
    for field, name in TEXTS.items():
        columns[name] = [text_of(one.get(field)) for one in found]
    content = encode.script("explanations", encode.table(columns))
    write_atomically(folder / "site" / "explanations.js", content)


def explanations(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file, none where there is no file."""
    if not path.is_file():
        return
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            try:
                one = parse_json(line)
            except ValueError as error:
                raise RunError(f"{path}:{number}: is no JSON ({error})") from error
            if not isinstance(one, dict) or type(one.get("latent")) is not int:
                raise RunError(f'{path}:{number}: must be an object with a whole number "latent"')
            yield one


def score_of(one: dict[str, Any]) -> float:
    """Return the score of an explanation, NaN where it has none."""
    score = one.get("score")
    is_number = isinstance(score, (int, float)) and not isinstance(score, bool)
    return float(score) if is_number else float("nan")  # type: ignore[arg-type]


def text_of(value: Any) -> str | None:
    """Return a text of an explanation."""
    return value if isinstance(value, str) else None
