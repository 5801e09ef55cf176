"""Explanations of latents: what an atlas keeps of them, and files of Neuronpedia that hold some."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict

from temporal_sae.errors import RunError, is_finite
from temporal_sae.files import open_regular, parse_json, write_atomically

EXPLANATIONS = "explanations.jsonl"
LONGEST_LINE = 2**20  # bytes
LONGEST_TEXT = 10_000  # characters of a description
LONGEST_NAME = 200
MOST_KINDS = 100  # of explanations of one latent
NUMBER = re.compile(r"\d{1,9}", re.ASCII)
LAYER = re.compile(r"(\d{1,9})-", re.ASCII)
GZIP = b"\x1f\x8b"


class Explained(TypedDict):
    """A line of `explanations.jsonl`; the names are Neuronpedia's but for `latent` and `score`."""

    latent: int
    description: str
    score: float | None
    typeName: str | None
    explanationModelName: str | None


class Unfit(ValueError):
    """A field of a line is not what it must be.

    Args:
        field: its name.
        value: what it holds.
        allowed: what it must be, in words.
    """

    def __init__(self, field: str, value: Any, allowed: str) -> None:
        told = repr(value) if len(repr(value)) <= LONGEST_NAME else f"{repr(value)[:LONGEST_NAME]}…"
        super().__init__(f"{field}={told}: must be {allowed}")


def read_explanations(folder: Path, n_latents: int) -> list[Explained]:
    """Return the explanations that an atlas holds, by latent; none where there is no such file.

    Raises:
        RunError: the file is damaged; in one line with the number of the line in it.
    """
    path = folder / EXPLANATIONS
    return list(explanations_in(path, n_latents)) if path.exists() else []


def explanations_in(
    path: Path, n_latents: int, layer: int | None = None, known: set[str] | None = None
) -> Iterator[Explained]:
    """Yield the explanations in a file of Neuronpedia or of an atlas, one JSON object a line.

    Args:
        path: of the file, compressed by gzip or not.
        n_latents: of the SAE.
        layer: of the SAE in its model; None where that is not known.
        known: the SAEs, as Neuronpedia names them, that lines have been of so far; receives more.

    Raises:
        RunError: a line does not fit; the message names file, line and field.
    """
    known = set() if known is None else known
    for number, line in enumerate(lines_in(path), 1):
        if not line.strip():
            continue
        try:
            fields = parse_json(line)
            if not isinstance(fields, dict):
                raise ValueError("must be a JSON object")
            check_source(fields, layer, known)
            yield explained(fields, n_latents)
        except ValueError as error:
            raise RunError(f"{path}:{number}: {error}") from error


def lines_in(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, decompressed where they have to be.

    Raises:
        RunError: it cannot be read, or a line is too long.
    """
    try:
        with open_regular(path) as raw:
            is_compressed = raw.read(len(GZIP)) == GZIP
            raw.seek(0)
            with gzip.open(raw) if is_compressed else raw as file:
                while line := file.readline(LONGEST_LINE + 1):
                    if len(line) > LONGEST_LINE:
                        raise ValueError(f"a line is longer than {LONGEST_LINE} bytes")
                    yield line
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"{path}: cannot be read ({reason})") from error


def check_source(fields: Mapping[str, Any], layer: int | None, known: set[str]) -> None:
    """Refuse a line that is not of the SAE that the others are of.

    Raises:
        Unfit: see above.
    """
    if "layer" not in fields:
        return
    source = text_of(fields, "layer", LONGEST_NAME)
    model = text_of(fields, "modelId", LONGEST_NAME, null=True)
    found = LAYER.match(source)
    if found and layer is not None and int(found[1]) != layer:
        raise Unfit("layer", source, f"of layer {layer}, as this atlas is")
    known.add(f"{model}/{source}")
    if len(known) > 1:
        first = min(known - {f"{model}/{source}"})
        raise Unfit("layer", f"{model}/{source}", f"{first}, as in the lines before")


def explained(fields: Mapping[str, Any], n_latents: int) -> Explained:
    """Return a line as an atlas keeps it.

    Raises:
        Unfit: a field is missing or not what it must be.
    """
    return {
        "latent": latent_of(fields, n_latents),
        "description": text_of(fields, "description", LONGEST_TEXT),
        "score": score_of(fields),
        "typeName": text_of(fields, "typeName", LONGEST_NAME, null=True),
        "explanationModelName": text_of(fields, "explanationModelName", LONGEST_NAME, null=True),
    }


def latent_of(fields: Mapping[str, Any], n_latents: int) -> int:
    """Return the latent of a line: `latent`, or Neuronpedia's `index`, which is a text there."""
    name = "latent" if "latent" in fields else "index"
    value = fields.get(name)
    number = int(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value
    if type(number) is not int or not 0 <= number < n_latents:
        raise Unfit(name, value, f"a latent from 0 to {n_latents - 1}")
    return number


def text_of(fields: Mapping[str, Any], name: str, longest: int, *, null: bool = False) -> Any:
    """Return a text of a line; None for one that is missing or empty, with `null`."""
    value = fields.get(name)
    if null and value in (None, ""):
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > longest:
        raise Unfit(name, value, f"a text of at most {longest} characters")
    return value


def score_of(fields: Mapping[str, Any]) -> float | None:
    """Return the score of a line: `score`, the first of `scores`, or `scoreV2`; None without."""
    name = next((n for n in ("score", "scores", "scoreV2") if fields.get(n) is not None), "score")
    value = fields.get(name)
    if name == "scores":
        first = value[0] if isinstance(value, list) and value else None
        if value == []:
            return None
        value = first.get("value") if isinstance(first, dict) else first
    if value is None and name != "scores":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not is_finite(value):
        raise Unfit(name, fields[name], "a number, or a list of objects with a number as `value`")
    return float(value)


def merged(old: Iterable[Explained], new: Iterable[Explained]) -> list[Explained]:
    """Return all explanations by latent; of those of one latent and type the last one alone.

    Raises:
        RunError: there are too many types.
    """
    found: dict[tuple[int, str], Explained] = {}
    kinds: set[str] = set()
    for one in chain(old, new):
        kinds.add(kind := one["typeName"] or "")
        if len(kinds) > MOST_KINDS:
            raise RunError(f"typeName={kind!r}: there are more than {MOST_KINDS} of them already")
        found[one["latent"], kind] = one
    return [found[key] for key in sorted(found)]


def write_explanations(folder: Path, explanations: Iterable[Explained]) -> None:
    """Write the explanations of an atlas."""
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in explanations]
    write_atomically(folder / EXPLANATIONS, "".join(lines).encode("utf-8", "replace"))
