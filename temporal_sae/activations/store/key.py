"""The facts that determine the rows of a store, known before model and text are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from temporal_sae.activations.language_model import LanguageModel
from temporal_sae.activations.model_files import hash_of_files
from temporal_sae.activations.store.shards import BFLOAT16, DTYPES
from temporal_sae.data import TextSource
from temporal_sae.data.kinds import check_kinds
from temporal_sae.errors import check_bool, check_choice, check_int
from temporal_sae.schemas import StoreKey, StoreManifest

# Options that say how something is fetched or where it runs, and not what it is. A path tells
# nothing beside the hash that text files have.
NOT_COUNTED = {
    "model": {"local_files_only", "device_map"},
    "data": {"changed", "patience", "skip_broken", "path"},
}

# Of each option of a store: its value where one is built and nothing else is asked for.
DEFAULTS: dict[str, Any] = {
    "num_tokens": 1_000_000,
    "held_out_tokens": 131_072,
    "context_size": 128,
    "prepend_bos": True,
    "exclude": ["bos", "separators"],
    "lm_batch_size": 32,
    "seed": 0,
    "dtype": BFLOAT16,
    "shard_rows": 16_384,
    "mixing_rows": 262_144,
}
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(DEFAULTS, partial(check_int, minimum=1)),
    **dict.fromkeys(("held_out_tokens", "seed"), partial(check_int, minimum=0)),
    "context_size": partial(check_int, minimum=2),
    "prepend_bos": check_bool,
    "exclude": lambda option, value: sorted(check_kinds(option, value)),
    "dtype": partial(check_choice, choices=tuple(DTYPES)),
}


def check_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a store, None for those that are not given.

    Raises:
        InvalidOption: one is out of range.
    """
    return {
        name: None if given[name] is None else check(name, given[name])
        for name, check in CHECKS.items()
    }


def options_that_count(group: str, options: Any) -> Any:
    """Return the options of `model` or `data` that say what it is."""
    if isinstance(options, Mapping):
        return {
            key: options_that_count(group, value)
            for key, value in options.items()
            if key not in NOT_COUNTED[group]
        }
    if isinstance(options, (list, tuple)):
        return [options_that_count(group, option) for option in options]
    return options


def of_loaded(model: LanguageModel) -> dict[str, Any]:
    """Return the options of a model that is loaded already."""
    return {"name": model.name, "hook_name": model.hook_name, "dtype": model.dtype}


def key_of(
    model: Mapping[str, Any], data: Mapping[str, Any], text: TextSource, options: Mapping[str, Any]
) -> StoreKey:
    """Return the key of a store.

    Args:
        model: options that count of the language model.
        data: those of the text.
        text: it.
        options: those of the store that are given; the others get their defaults.
    """
    chosen = {
        name: default if options[name] is None else options[name]
        for name, default in DEFAULTS.items()
    }
    key: Any = {
        "model": dict(model),
        "data": dict(data),
        "files": hash_of_files(model),
        "text": text.describe(),
        **chosen,
    }
    return key


def other_options(key: StoreKey, options: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (option, given, that of the store) of each that is given and differs."""
    for name in DEFAULTS:
        given, own = options[name], dict(key)[name]
        if given is not None and given != own:
            yield name, given, own


def other_origin(manifest: StoreManifest, asked: StoreKey) -> Iterator[str]:
    """Yield in words how the model and the text that are asked for differ from those of a store.

    An option that only one of them has is new since, or of a class of one's own.
    """
    key = manifest["key"]
    both_known = key["files"] is not None and asked["files"] is not None
    for name in sorted(key["model"].keys() & asked["model"].keys()):
        own, given = key["model"][name], asked["model"][name]
        same = own == given or (name == "name" and both_known)
        if name == "hook_name":
            same = given in (own, manifest["metadata"].get("hook_name"))
        if not same:
            yield f"model.{name}={own!r}, and not {given!r}"
    if both_known and key["files"] != asked["files"]:
        yield f"a model with other files than those of model.name={asked['model'].get('name')!r}"
    for name in sorted(key["data"].keys() & asked["data"].keys()):
        own, given = key["data"][name], asked["data"][name]
        if own != given:
            yield f"data.{name}={own!r}, and not {given!r}"
    if key["text"] != asked["text"]:
        yield "other text than that of data"
