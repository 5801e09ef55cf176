"""Mistakes in a command line, each told in one line: the key, the value, what is allowed."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from temporal_sae.commands import CONF, in_shell, quoted
from temporal_sae.errors import InvalidOption, RunError, one_line, reason_of
from temporal_sae.renamed import GONE, new_key, new_value

NOT_OPTIONS = ("experiment", "sweep", "hydra")  # groups that set keys of others
PLUGINS = ("hydra/launcher", "hydra/sweeper")
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")


def composed(overrides: list[str]) -> DictConfig:
    """Return the config that `launch.py` would compose."""
    try:
        check_typed(overrides, CONF)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise RunError(explain(error, CONF)) from error


def check_typed(overrides: Sequence[str], conf: Path) -> None:
    """Refuse what Hydra would take for something else, or answer with a traceback.

    Raises:
        InvalidOption, RunError: see above.
        OverrideParseException: one cannot be read at all.
    """
    parser = OverridesParser.create()
    for override in parser.parse_overrides(list(overrides)):
        if not override.is_sweep_override():
            check_override(override, override.value(), conf)


def check_override(override: Override, value: Any, conf: Path) -> None:
    """Refuse one override, with the value that it has been read as."""
    key, deletes = str(override.key_or_group), override.is_delete()
    if not key or key == "hydra":
        raise RunError(f"{override.input_line}: must be key=value; --help shows keys")
    if options := options_of(key, conf):
        named = value if isinstance(value, list) else [value]
        if not deletes and not all(isinstance(name, str) and name for name in named):
            raise InvalidOption(key, value, "one of " + ", ".join(options))
    if key in FOLDERS and not deletes:
        text = "" if value is None else str(value)
        if not text.strip() or text == "???" or not text.isprintable():
            raise InvalidOption(key, value, "the name of a folder, of characters that can be seen")
    if key == "hydra.sweep.subdir" and (Path(str(value)).is_absolute() or ".." in str(value)):
        raise InvalidOption(key, value, "the name of a folder below the sweep's")
    if key == "hydra.job.chdir" and value not in (False, None):
        allowed = "false: relative paths are those of the folder in which the command is given"
        raise InvalidOption(key, value, allowed)


def explain(error: Exception, conf: Path) -> str:
    """Return a composition error in one line, with the nearest valid key or the options."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return explain_unreadable(str(error.override))
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return explain_unknown_key(unknown[1].lstrip("+~").split("@")[0], conf)
    if missing := re.search(r"Could not (?:find|load) '([^']*/[^']*)'", text):
        return explain_unknown_option(missing[1], conf)
    if several := re.search(r"(?:argument|Sweep parameters) '(.*?=.*)'", text):
        return explain_several(several[1])
    if merged := re.search(r"Error merging override (.*)", text):
        why = str(error.__cause__).splitlines()[0] if error.__cause__ else "it does not fit"
        return f"{merged[1]}: {one_line(why)}"
    return one_line(text) or type(error).__name__


def explain_unknown_option(path: str, conf: Path) -> str:
    """Say which options a group has; `path` is that of the option's file, such as sae/nonesuch."""
    above = path.rpartition("/")[0]
    group = next((g for g in groups_in(conf) if path.startswith(f"{g}/")), above)
    name = path[len(group) + 1 :]
    if new := new_value(group, name):
        return f"{group}={name}: is called {group}={new} now"
    options = ", ".join(options_of(group, conf)) or "those that --hydra-help shows"
    return f"{group}={name}: must be one of {options}"


def explain_unreadable(override: str) -> str:
    """Say what cannot be read as `key=value`, and how it is written so that it can."""
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[+~]{0,2}[\w./@-]+", key):
        return f"{override}: cannot be read as key=value"
    advice = in_shell([f"{key}={quoted(value)}"])
    return f"{override}: cannot be read; a text with special characters is put in quotes: {advice}"


def explain_several(override: str) -> str:
    """Say how several values are meant to be written."""
    key, _, value = override.partition("=")
    a_list, a_text = in_shell([f"{key}=[{value}]"]), in_shell([f"{key}={quoted(value)}"])
    return f"{override}: several values are a sweep, with -m; a list is {a_list}, a text {a_text}"


def explain_unusable(error: Exception, words: Sequence[str]) -> str:
    """Name the words about Hydra itself, of which one must be wrong where nothing else is known."""
    suspects = [word for word in words if word.lstrip("+~").startswith("hydra")] or words
    if isinstance(error, OSError) and error.filename is not None:
        allowed = f"must be a folder that can be written ({error.strerror})"
        return f"hydra.run.dir={os.fsdecode(error.filename)}: {allowed}"
    return f"{' '.join(suspects)}: Hydra cannot use this ({reason_of(error)})"


def groups_in(conf: Path) -> list[str]:
    """Return the config groups; a group comes before those above it."""
    folders = {p.relative_to(conf).as_posix() for p in conf.rglob("*") if p.is_dir()}
    return sorted(folders - {"hydra"}, reverse=True)


def options_of(group: str, conf: Path) -> list[str]:
    """Return the options of a config group: files, and what Hydra and its plugins bring along."""
    try:
        stored = ConfigStore.instance().list(group)
    except OSError:
        stored = []
    files = {path.stem for path in (conf / group).glob("*.yaml")}
    return sorted(files | {n.removesuffix(".yaml") for n in stored if n.endswith(".yaml")})


def explain_unknown_key(key: str, conf: Path) -> str:
    """Say that a key is unknown, to which option of its group it belongs, or what is nearest."""
    if new := new_key(key):
        return f"{key}: is called {new} now"
    if key in GONE:
        return f"{key}: {GONE[key]}"
    if options := options_of(key, conf):
        return f"{key}: is chosen by name, {key}=one of {', '.join(options)}"
    keys = known_keys(conf)
    group = key.rpartition(".")[0] if key.startswith("hydra.") else key.split(".")[0]
    if keys.get(key):
        group = keys[key][0].split("=")[0]
        return f"{key}: unknown key with this {group}; it belongs to {' or '.join(keys[key])}"
    of_group = [k for k in keys if k.startswith(f"{group}.")] or [
        k for k in keys if k.startswith("hydra.") == key.startswith("hydra")
    ]
    last = key.lower().rpartition(".")[2]
    of_that_name = [k for k in of_group if k.rpartition(".")[2] == last]
    nearest = difflib.get_close_matches(key.lower(), of_that_name or of_group, n=1, cutoff=0.0)
    return f"{key}: unknown key; the nearest valid key is {nearest[0]}"


def known_keys(conf: Path) -> dict[str, list[str]]:
    """Every key that some choice of options has, with the options that have it."""
    top = as_dict(OmegaConf.load(conf / "config.yaml"))
    keys: dict[str, list[str]] = {str(key): [] for key in top if key not in ("defaults", "hydra")}
    own = [p.name for p in conf.iterdir() if p.is_dir() and p.name not in NOT_OPTIONS]
    for group in [*sorted(own), *PLUGINS]:
        keys[group.replace("/", ".")] = []
        for option in sorted((conf / group).glob("*.yaml")):
            place = package_of(option) or group.replace("/", ".")
            for key in keys_below(as_dict(with_defaults(option)), f"{place}."):
                keys.setdefault(key, []).append(f"{group}={option.stem}")
    hydras = keys_below(as_dict(OmegaConf.structured(HydraConf)), "hydra.")
    return keys | {key: [] for key in hydras if key not in keys}


def package_of(option: Path) -> str | None:
    """Return the key at which an option's file puts its own ones, None for that of the group."""
    with option.open() as file:
        header = re.fullmatch(r"# @package ([\w.]+)\s*", file.readline())
    return header[1] if header else None


def with_defaults(option: Path) -> Any:
    """Return an option's file over those of its group that its defaults list names."""
    own: Any = OmegaConf.load(option)
    names = [d for d in own.pop("defaults", []) if isinstance(d, str) and d != "_self_"]
    files = [option.with_stem(name) for name in names]
    return OmegaConf.merge(*(with_defaults(file) for file in files if file.exists()), own)


def as_dict(config: Any) -> dict[str, Any]:
    """Plain dictionaries, with what is missing or refers to other keys as it is written."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return plain


def keys_below(config: dict[str, Any], prefix: str) -> list[str]:
    """Dotted keys of everything in a config."""
    found = []
    for key, value in config.items():
        if not str(key).startswith("_"):
            found.append(f"{prefix}{key}")
            found += keys_below(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return found
