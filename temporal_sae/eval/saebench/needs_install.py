"""What has to be installed for SAEBench, and which models its TransformerLens knows."""

from __future__ import annotations

import ast
import difflib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from temporal_sae.errors import InvalidOption, RunError

INSTALL = 'pip install -e ".[bench]"'
TOO_NEW = (3, 13)


def installation_problems() -> Iterator[RunError]:
    """The extra is missing, or the Python is too new for it, or torchvision breaks it."""
    running = sys.version_info[:2]
    if running >= TOO_NEW:
        yield RunError(
            f"SAEBench needs Python 3.11 or 3.12, and this is {running[0]}.{running[1]}: sae-bench "
            "needs numpy < 2, which Python 3.13 has no builds of. Make an environment with Python "
            f"3.12 and run there: {INSTALL}"
        )
    elif find_spec("sae_bench") is None or find_spec("sae_lens") is None:
        yield RunError(
            f"SAEBench is not installed; run: {INSTALL} (an extra because sae-bench needs Python "
            "<= 3.12 and numpy < 2, and brings a gigabyte of packages)"
        )
    if reason := torchvision_failure():
        yield RunError(
            f"the torchvision that is installed does not work with this torch ({reason}), and then "
            "transformers and sae_bench cannot be imported; sae_bench never uses it, so run: "
            "pip uninstall torchvision"
        )


@cache
def torchvision_failure() -> str:
    """Why torchvision cannot be imported; empty if it can, or is not there.

    Its build has to match torch's in version and CUDA, which only importing it tells; that is
    done in another process because a failed import leaves pieces behind.
    """
    if find_spec("torchvision") is None:
        return ""
    tried = subprocess.run(
        [sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False
    )
    if tried.returncode == 0:
        return ""
    return (tried.stderr.strip().splitlines() or ["its import ends the process"])[-1]


def model_problems(model_name: str) -> Iterator[InvalidOption]:
    """TransformerLens, through which SAEBench runs language models, does not know the model."""
    known = known_models()
    if known and model_name.lower() not in known:
        near = difflib.get_close_matches(model_name.split("/")[-1].lower(), known, 3, cutoff=0)
        names = dict.fromkeys(known[name] for name in near)
        yield InvalidOption(
            "model_name",
            model_name,
            f"one of the {len(set(known.values()))} models that TransformerLens knows, the nearest "
            f"being {', '.join(names)} (eval=tasks asks similar questions of any model)",
        )


def official_name(model_name: str) -> str:
    """The name on the hub of what TransformerLens knows by `model_name`."""
    return known_models().get(model_name.lower(), model_name)


@cache
def known_models() -> Mapping[str, str]:
    """Hub names by lower-case name or alias; empty where TransformerLens is not installed.

    Its lists are literals, so its source is parsed: importing it takes seconds.
    """
    spec = find_spec("transformer_lens")
    names: list[str] = []
    aliases: dict[str, list[str]] = {}
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in ("supported_models.py", "loading_from_pretrained.py"):
            found = literals(Path(folder) / file)
            names = names or found.get("OFFICIAL_MODEL_NAMES", [])
            aliases = aliases or found.get("MODEL_ALIASES", {})
    known = {alias.lower(): name for name in names for alias in aliases.get(name, ())}
    return known | {name.lower(): name for name in names}


def literals(file: Path) -> dict[str, Any]:
    """The module-level names in capitals that are assigned a literal."""
    found: dict[str, Any] = {}
    if not file.exists():
        return found
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name) and target.id.isupper():
            with suppress(ValueError):  # what is computed from others is no literal
                found[target.id] = ast.literal_eval(value)
    return found
