"""Evaluate finished runs and SAEs from elsewhere.

    python -m temporal_sae.eval FOLDER... [eval=tasks] [key=value ...]

A folder of a run is evaluated with its own model and text. A folder in the format of SAELens,
dictionary_learning or sparsify needs to be told the model, unless its config names it:
`model=hf model.name=... model.hook_name=...`. What is done already with the same options is not
done again. Exit codes: 0 all is done, 2 wrong input, 3 some evaluation failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from temporal_sae.cli import EVALUATION_FAILED, explain, fail
from temporal_sae.errors import InvalidOption, RunError

CONF = Path(__file__).resolve().parents[2] / "conf"
OF_A_RUN = ("eval", "device", "debug")


def main(arguments: list[str] | None = None) -> None:
    """Evaluate every folder; the failures of one do not keep the others from being done."""
    parser = argparse.ArgumentParser(
        prog="python -m temporal_sae.eval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="+", help="of a run or of an SAE; and key=value options")
    words: list[str] = parser.parse_args(arguments).folder
    folders = [Path(w) for w in words if "=" not in w or Path(w).exists()]
    overrides = [w for w in words if Path(w) not in folders]
    if not folders:
        parser.error("name at least one folder")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("temporal_sae").setLevel(logging.INFO)
    failed = False
    for folder in folders:
        try:
            failures = evaluate(folder, overrides)
        except (InvalidOption, RunError) as error:
            if "debug=true" in overrides:
                raise
            fail(str(error))
        for name, reason in failures.items():
            failed = True
            print(f"error: {folder}: eval {name}: {reason}", file=sys.stderr)
    if failed:
        sys.exit(EVALUATION_FAILED)


def evaluate(folder: Path, overrides: list[str]) -> dict[str, str]:
    """Evaluate one folder; returns the reason of each evaluation that failed."""
    from temporal_sae.experiment.evaluate import evaluate_foreign, evaluate_run

    if not folder.exists():
        raise RunError(f"{folder}: there is no such folder")
    if (folder / "run.json").exists():
        for override in overrides:
            key = override.split("=")[0].lstrip("+~")
            if key.split(".")[0] not in OF_A_RUN:
                raise RunError(f"{override}: a run is evaluated with its own {key.split('.')[0]}")
        return evaluate_run(folder, composed(overrides))
    return evaluate_foreign(folder, composed([*described(folder), *overrides]))


def composed(overrides: list[str]) -> DictConfig:
    """The config that `launch.py` would compose."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise RunError(explain(error, CONF)) from error


def described(folder: Path) -> list[str]:
    """The model and windows that `cfg.json` names, as overrides; empty where it names no model."""
    try:
        cfg = json.loads((folder / "cfg.json").read_text())
    except (OSError, ValueError):
        return []
    metadata = {**cfg, **cfg.get("metadata", {})}
    name, hook_name = metadata.get("model_name"), metadata.get("hook_name")
    if not name or not hook_name:
        return []
    windows = [
        f"activations.{key}={metadata[key]}"
        for key in ("context_size", "prepend_bos")
        if metadata.get(key) is not None
    ]
    return ["model=hf", f"model.name='{name}'", f"model.hook_name='{hook_name}'", *windows]


if __name__ == "__main__":
    main()
