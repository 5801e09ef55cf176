"""`hydra.sweeper.also` as a person types it, for Hydra, whose lists cannot hold an `=`.

    hydra.sweeper.also=[[tracker=off,loss.ortho_weight=0],[loss.permuted=true]]

Each inner list is a sweep beside the main one; the outer brackets, or both, may be left out where
there is one. What follows a comma and is no `key=` is one more value of the key before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from temporal_sae.commands import quoted
from temporal_sae.errors import RunError

ALSO = "hydra.sweeper.also"
EXAMPLE = f"{ALSO}=[[tracker=off,loss.ortho_weight=0],[loss.permuted=true,seed=1,2]]"
TYPED = re.compile(rf"(\+{{0,2}}{re.escape(ALSO)})=(.*=.*)", re.DOTALL)
OVERRIDE = re.compile(r"[+~]{0,2}[\w./@-]+=")
OPENS, CLOSES = "[{(", ")}]"


def readable(words: Sequence[str], *, multirun: bool) -> list[str]:
    """Return a command line with `also` in the quotes that Hydra needs.

    Args:
        words: the overrides that are typed.
        multirun: whether `-m` is among the flags.

    Raises:
        RunError: it cannot be read, or there is no sweep that it could stand beside.
    """
    sweeps = multirun or any(re.match(r"\+?sweep=|hydra\.mode=", word) for word in words)
    arranged = []
    for word in words:
        if match := TYPED.fullmatch(word):
            if not sweeps:
                raise RunError(f"{word}: stands beside a sweep, with -m or sweep=NAME")
            lists = [",".join(map(quoted, each)) for each in sweeps_in(match[2], word)]
            word = f"{match[1]}=[{','.join(f'[{each}]' for each in lists)}]"
        arranged.append(word)
    return arranged


def sweeps_in(text: str, word: str) -> list[list[str]]:
    """Return the overrides of each sweep that `text`, the value of `word`, spells."""
    inner = without_brackets(text)
    if inner is None:
        return [overrides_in(text, word)]
    lists = [without_brackets(part) for part in parts_of(inner, word)]
    if None in lists:
        return [overrides_in(inner, word)]
    return [overrides_in(each, word) for each in lists if each is not None]


def overrides_in(text: str, word: str) -> list[str]:
    """Return the overrides of one sweep; a part that begins none belongs to the one before it."""
    found: list[str] = []
    for part in filter(None, parts_of(text, word)):
        plain = part[1:-1] if part[0] in "'\"" and part[-1] == part[0] else part
        if OVERRIDE.match(plain):
            found.append(plain)
        elif found:
            found[-1] += f",{part}"
        else:
            raise RunError(f"{word}: cannot be read; it is written as in {EXAMPLE}")
    return found


def without_brackets(text: str) -> str | None:
    """Return what stands between the brackets of a list, None if it is no list."""
    text = text.strip()
    return text[1:-1] if text.startswith("[") and text.endswith("]") else None


def parts_of(text: str, word: str) -> list[str]:
    """Return what the commas outside of brackets and quotes divide `text` into."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "," and not depth:
            parts.append("")
            continue
        else:
            depth += (letter in OPENS) - (letter in CLOSES)
        if depth < 0:
            break
        parts[-1] += letter
    if depth or quote:
        raise RunError(
            f"{word}: has a bracket or a quote without its other one; it is written as in {EXAMPLE}"
        )
    return [part.strip() for part in parts]
