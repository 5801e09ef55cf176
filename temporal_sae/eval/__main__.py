"""Evaluate finished runs and SAEs from elsewhere.

    python -m temporal_sae.eval FOLDER... [eval=tasks] [key=value ...]

A folder of a run is evaluated with its own model and text. A folder in the format of SAELens,
dictionary_learning or sparsify needs to be told the model, unless its config names it:
`model=hf model.name=... model.hook_name=...`. What is done already with the same options is not
done again. With `logger=tensorboard` or `wandb` a run's results go there, too. Exit codes: 0 all is
done, 2 wrong input, 3 some evaluation failed.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from temporal_sae import schemas, signals
from temporal_sae.cli import EVALUATION_FAILED
from temporal_sae.commands import Parser, exit_on_mistakes, let_readers_leave
from temporal_sae.errors import RunError, printable
from temporal_sae.explain import composed

OF_A_RUN = ("eval", "device", "debug", "plugins", "logger")
RESIDUAL = re.compile(r"resid_post_layer_(\d+)")


def main(arguments: list[str] | None = None) -> None:
    """Evaluate every folder; the failures of one do not keep the others from being done."""
    let_readers_leave()
    with signals.ending():
        _main(arguments)


def _main(arguments: list[str] | None) -> None:
    parser = Parser(
        prog="python -m temporal_sae.eval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="+", help="of a run or of an SAE; and key=value options")
    words: list[str] = parser.parse_args(arguments).folder
    folders = [Path(w) for w in words if "=" not in w or os.path.exists(w)]
    overrides = [w for w in words if Path(w) not in folders]
    if not folders:
        parser.error("name at least one folder")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("temporal_sae").setLevel(logging.INFO)
    try:
        failed = [folder for folder in folders if not evaluated(folder, overrides)]
    except KeyboardInterrupt:
        print("stopped; the same command does what is missing", file=sys.stderr)
        raise
    if failed:
        sys.exit(EVALUATION_FAILED)


def evaluated(folder: Path, overrides: list[str]) -> bool:
    """Evaluate one folder and print what failed; return True if nothing did."""
    with exit_on_mistakes(traceback="debug=true" in overrides):
        failures = evaluate(folder, overrides)
    for name, reason in failures.items():
        print(f"error: {folder}: eval {name}: {printable(reason)}", file=sys.stderr)
    return not failures


def evaluate(folder: Path, overrides: list[str]) -> dict[str, str]:
    """Evaluate one folder; returns the reason of each evaluation that failed."""
    from temporal_sae.experiment.evaluate import evaluate_foreign, evaluate_run

    if not os.path.exists(folder):
        raise RunError(f"{folder}: there is no such folder")
    if (folder / "run.json").exists():
        for override in overrides:
            key = override.split("=")[0].lstrip("+~")
            if key.split(".")[0] not in OF_A_RUN:
                raise RunError(f"{override}: a run is evaluated with its own {key.split('.')[0]}")
        return evaluate_run(folder, composed(overrides))
    return evaluate_foreign(folder, with_facts(folder, overrides))


def with_facts(folder: Path, overrides: list[str]) -> DictConfig:
    """Return the config that is typed, with the model and windows that the SAE's own config names.

    They are set as values, of which nothing is parsed. What is typed wins.

    Raises:
        RunError: the two do not go together, or the SAE's config cannot be read.
    """
    facts = facts_of_sae_lens(folder) or facts_of_dictionary_learning(folder)
    if not facts.get("model.name") or not facts.get("model.hook_name"):
        return composed(overrides)
    cfg = composed(["model=hf", *overrides])
    typed = {override.split("=")[0].lstrip("+~") for override in overrides}
    for key, value in facts.items():
        group, _, name = key.partition(".")
        is_given = key in typed or (group == "model" and not OmegaConf.is_missing(cfg[group], name))
        if value is None or is_given:
            continue
        if "${" in str(value):
            raise RunError(f"{folder}: its {key}={value!r} must be without ${{…}}")
        OmegaConf.update(cfg, key, value)
    return cfg


def facts_of_sae_lens(folder: Path) -> dict[str, Any]:
    """From `cfg.json`, which this package writes too."""
    cfg = read_config(folder / "cfg.json", schemas.SAELensConfig)
    facts = {**cfg, **(cfg.get("metadata") or {})}
    if not facts:
        return {}
    return {
        "model.name": facts.get("model_name"),
        "model.hook_name": facts.get("hook_name"),
        "activations.context_size": facts.get("context_size"),
        "activations.prepend_bos": facts.get("prepend_bos"),
    }


def facts_of_dictionary_learning(folder: Path) -> dict[str, Any]:
    """From `config.json`, which names a place after its layer."""
    config = read_config(folder / "config.json", schemas.DictionaryLearningConfig)
    trainer, buffer = config.get("trainer") or {}, config.get("buffer") or {}
    place = RESIDUAL.fullmatch(str(trainer.get("submodule_name")))
    return {
        "model.name": trainer.get("lm_name"),
        "model.hook_name": f"blocks.{place[1]}.hook_resid_post" if place else None,
        "activations.context_size": buffer.get("ctx_len"),
    }


def read_config(path: Path, schema: Any) -> dict[str, Any]:
    """Return the place of an SAE that a file names; empty where there is no file.

    Raises:
        RunError: it cannot be read.
    """
    try:
        config: dict[str, Any] = schemas.read(path, schema)
    except FileNotFoundError:
        return {}
    return config


if __name__ == "__main__":
    main()
