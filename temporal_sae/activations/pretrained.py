"""Load a language model and its tokenizer: whole, fitting each other, and without their code."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from textwrap import shorten
from typing import Any

from temporal_sae.activations.loading import Loaded, LoadOptions, load_model
from temporal_sae.assets import BUNDLED
from temporal_sae.errors import InvalidOption, printable
from temporal_sae.files import LONGEST_JSON
from temporal_sae.network import switched_off, unreachable, without_waiting

log = logging.getLogger(__name__)

EXPECTED = "tiny, an existing folder, or a model on the hub"
LONGEST_REASON = 240  # characters of what a library says
INSERTED = ("bos", "eos", "pad")  # tokens that are put before, behind or between texts


def load_pretrained(name: str, options: LoadOptions) -> tuple[Loaded, Any]:
    """Return the language model and the tokenizer of a folder, or of a name on the hub.

    Code that comes with a model is never run; transformers' own class is used where it has one.

    Args:
        name: `tiny` (bundled), a local folder, or a name on the Hugging Face hub.
        options: how.

    Raises:
        InvalidOption: it cannot be loaded, some of its weights are missing, or it has no embedding
            for a token of its tokenizer.
    """
    from transformers import AutoTokenizer  # slow to import

    own_code = False
    offline: str | None = None
    try:
        where = where_is(name)
        with _quietly(), _hub(where, options) as offline:
            own_code = _brings_code(where, options)
            tokenizer = AutoTokenizer.from_pretrained(
                where, trust_remote_code=False, **options.of_files
            )
            loaded = load_model(where, options)
    except InvalidOption:
        raise
    except Exception as error:  # damaged files raise whatever one of four libraries stumbles over
        reason = printable(shorten(str(error) or type(error).__name__, LONGEST_REASON))
        if offline:
            raise InvalidOption("name", name, unreachable(offline)) from error
        if own_code:
            reason = "it needs Python code of its own (auto_map), which is never run"
        elif (attention := options.attn_implementation) and "attention" in reason:
            allowed = f"null, or one that the model can be run with ({reason})"
            raise InvalidOption("attn_implementation", attention, allowed) from error
        raise InvalidOption("name", name, f"a model that can be loaded ({reason})") from error
    _check_weights(name, loaded.model, loaded.found)
    _check_tokenizer(name, loaded.model, tokenizer)
    tokenizer.split_special_tokens = True  # `<bos>` in a text is text
    if own_code:
        kind = type(loaded.model).__name__
        log.warning("model.name=%r: its own code is not run; it is read as %s", name, kind)
    return loaded, tokenizer


def _hub(where: str, options: LoadOptions) -> AbstractContextManager[str | None]:
    """While open, nobody is asked who is not needed, or who does not answer."""
    if os.path.isdir(where):
        return nullcontext()
    if options.local_files_only:
        return switched_off("local_files_only is set")
    return without_waiting()


def where_is(name: str) -> str:
    """Return the folder or the name on the hub; a folder holds nothing that blocks or is endless.

    Raises:
        InvalidOption: there is no such folder, or something in it is no regular file.
    """
    if not isinstance(name, str) or not name:
        raise InvalidOption("name", name, EXPECTED)
    folder = BUNDLED.get(name) or Path(os.path.expanduser(name))
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_like_path and not folder.is_dir():
        raise InvalidOption("name", name, EXPECTED)
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.exists():  # a link to nowhere, which nobody has to read
            continue
        if not (path.is_file() or path.is_dir()):
            raise InvalidOption("name", name, f"a folder of regular files ({path.name!r} is none)")
        if path.suffix == ".json" and path.stat().st_size > LONGEST_JSON:
            allowed = f"a folder without JSON files above {LONGEST_JSON} bytes ({path.name!r})"
            raise InvalidOption("name", name, allowed)
    return str(folder)


def _brings_code(where: str, options: LoadOptions) -> bool:
    """Return whether model or tokenizer name Python code of their own.

    Raises:
        ValueError: the model names a compiled kernel on the hub, which would be fetched and run.
    """
    from transformers import PreTrainedConfig
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    config, _ = PreTrainedConfig.get_config_dict(where, **options.of_files)
    for key in ("attn_implementation", "_attn_implementation"):
        if foreign := [str(value) for value in _values(config, key) if "/" in str(value)]:
            raise ValueError(f"{key}={foreign[0]!r} is code of its own, which is never run")
    tokenizer = get_tokenizer_config(where, **options.of_files)
    return any(_values(config, "auto_map")) or any(_values(tokenizer, "auto_map"))


def _values(content: Any, key: str) -> Iterator[Any]:
    """Yield the values of a key, at any depth."""
    if isinstance(content, dict):
        if key in content:
            yield content[key]
        for part in content.values():
            yield from _values(part, key)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bars and tables, of which what matters is checked and told."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)


def _check_weights(name: str, model: Any, found: dict[str, Any]) -> None:
    """Refuse weights that would be random; tell of those that are not used.

    Tied weights, and those that a model makes itself, are not among the missing.
    """
    missing, unused = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if missing:
        reason = f"its files lack {len(missing)} of {len(model.state_dict())}, such as {missing[0]}"
        if unused:
            reason += f", and hold {len(unused)} that it does not know, such as {unused[0]}"
        raise InvalidOption("name", name, f"a model with all its weights ({printable(reason)})")
    if mismatched := sorted(found["mismatched_keys"]):
        weight, stored, expected = mismatched[0]
        reason = f"{weight} has shape {list(stored)}, its config wants {list(expected)}"
        allowed = f"a model whose weights fit its config ({len(mismatched)} do not; {reason})"
        raise InvalidOption("name", name, printable(allowed))
    if unused:
        example = printable(unused[0])
        log.warning(
            "model.name=%r: not used of its weights: %d, such as %s", name, len(unused), example
        )


def ordinary_tokens(tokenizer: Any) -> list[int]:
    """Return the numbers of the tokens that text becomes; none where its files are missing."""
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(n for n, token in added.items() if token.special)}
    return [n for n in tokenizer.get_vocab().values() if n not in special]


def _check_tokenizer(name: str, model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer whose tokens have no embedding, or which has none at all.

    Special tokens for images and the like may lie behind the embedding: no text becomes them.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    ordinary = ordinary_tokens(tokenizer)
    if not ordinary:
        raise InvalidOption("name", name, "a model with its tokenizer (whose files are missing)")
    ids = {word: getattr(tokenizer, f"{word}_token_id") for word in INSERTED}
    largest = max(ordinary)
    beyond = {f"{word} token": n for word, n in ids.items() if n is not None and n >= rows}
    if largest >= rows:
        beyond[f"token {tokenizer.convert_ids_to_tokens(largest)!r}"] = largest
    for token, number in beyond.items():
        reason = f"its {token} is number {number}, its embedding has {rows} rows"
        raise InvalidOption("name", name, f"a model with the tokenizer it was made for ({reason})")
