"""Evaluate what has been trained: finished runs, and SAEs from elsewhere."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from temporal_sae import schemas
from temporal_sae.activations import ActivationSource
from temporal_sae.activations.stream import OF_TRAINING_ALONE
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval import EvaluationFiles, Subject
from temporal_sae.experiment.build import EvaluationComponents, build_evaluation
from temporal_sae.experiment.components import check_stored, load_plugins
from temporal_sae.experiment.construct import naming
from temporal_sae.experiment.determinism import deterministic_on_cpu
from temporal_sae.experiment.folder import RECORD, RunFolder
from temporal_sae.experiment.loggers import build_loggers, tell_later
from temporal_sae.experiment.source_record import changes_of
from temporal_sae.files import write_json
from temporal_sae.report import build_report
from temporal_sae.report.run_facts import read_run
from temporal_sae.sae import SparseAutoencoder, load_sae

log = logging.getLogger(__name__)

RESULTS = "results.json"
SOURCE_GROUPS = ("model", "data", "activations")
SAME_ROWS = ("changed", *OF_TRAINING_ALONE)


def subject_of(
    sae: SparseAutoencoder,
    sae_folder: Path,
    components: EvaluationComponents,
    config: dict[str, Any],
    folder: Path,
) -> Subject:
    """Return a saved SAE with everything it is judged by.

    Args:
        sae: what `sae_folder` holds.
        sae_folder: where it is saved.
        components: source and evaluation.
        config: has the groups of the source.
        folder: receives a file per evaluation.
    """
    identity = {
        "sae": weights_hash(sae),
        "source": [identity_of(config), components.source.describe()],
        "version": version("temporal_sae"),
    }
    files = EvaluationFiles(folder, identity)
    return Subject(sae, sae_folder, components.source, files, say=log.info)


def identity_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options on which held-out rows depend, as far as is known of all sources."""
    groups = {group: config.get(group) or {} for group in SOURCE_GROUPS}
    return {
        group: {k: v for k, v in options.items() if k not in SAME_ROWS}
        for group, options in groups.items()
    }


def weights_hash(sae: SparseAutoencoder) -> str:
    """SHA-256 over the tensors of the inference-time function and its config."""
    digest = hashlib.sha256(json.dumps([sae.architecture, sae.config()], default=str).encode())
    for name, tensor in sorted(sae.tensors().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def evaluate_run(folder: Path, options: DictConfig) -> dict[str, str]:
    """Evaluate a run of this package with `options.eval`; its results and notes gain sections.

    Args:
        folder: of the run; everything but `eval` and `device` is taken from its own config.
        options: a composed config.

    Returns:
        The reason of each evaluation that failed, by name.

    Raises:
        InvalidOption, RunError: nothing has been evaluated.
    """
    load_plugins(options.plugins)
    run = RunFolder(folder)
    with run.held():
        record = run.read()
        if record is None or not (folder / RESULTS).exists():
            raise RunError(f"{folder}: holds no run that has finished training")
        read_run(folder)  # what reports tell of it, before any work
        cfg = evaluation_config(folder, options)
        loggers = build_loggers(options, folder)
        run.set_aside_misfits()
        failures = evaluate_saved(folder / "sae", cfg, folder, record)
        if record["status"] == "failed" and not failures:
            record = {k: v for k, v in record.items() if k != "reason"} | {"status": "finished"}
        record["config"]["eval"] = OmegaConf.to_container(cfg.eval, resolve=True)
        run.write(record)
        build_report(folder)
        if loggers.others:
            tell_later(loggers, folder, record, results_in(folder))
    return failures


def evaluation_config(folder: Path, options: DictConfig) -> DictConfig:
    """Return the typed config with the model, text and activations of the run in `folder`.

    Raises:
        RunError: the record does not have it, or has what a folder may not say.
    """
    record = schemas.read(folder / RECORD, schemas.EvaluatedRecord)
    config: dict[str, Any] = {**record["config"]}
    own = {group: config[group] for group in SOURCE_GROUPS if group in config}
    check_stored(own, options.plugins, folder / RECORD)
    cfg = options.copy()
    with open_dict(cfg):
        for group in SOURCE_GROUPS:
            cfg.pop(group, None)
        cfg.update(own)
    return cfg


def evaluate_foreign(folder: Path, options: DictConfig) -> dict[str, str]:
    """Evaluate an SAE that was trained elsewhere; `eval/` and `results.json` go beside it.

    Args:
        folder: holds it in the format of SAELens, dictionary_learning, sparsify or this package.
        options: a composed config, with the model it belongs to.

    Returns, Raises: as `evaluate_run`.
    """
    return evaluate_saved(folder, options, folder)


def evaluate_saved(
    sae_folder: Path, cfg: DictConfig, folder: Path, record: dict[str, Any] | None = None
) -> dict[str, str]:
    """Evaluate the SAE in `sae_folder`, writing `eval/` and `results.json` in `folder`.

    `record` is that of the run that has trained it, if one of this package has.
    """
    if not os.access(folder, os.W_OK):
        raise RunError(f"{folder}: cannot be written, and receives eval/ and {RESULTS}; copy it")
    earlier = results_in(folder)
    if (folder / "eval").exists() and not (folder / "eval").is_dir():
        raise RunError(f"{folder / 'eval'}: must be a folder, which receives a file per evaluation")
    sae, components = opened(sae_folder, cfg, folder, record)
    source = components.source
    with naming("eval"):
        components.evaluation.check(source, sae)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    with deterministic_on_cpu(source.device):
        outcome = components.evaluation.run(
            subject_of(sae, sae_folder, components, config, folder / "eval")
        )
    write_json(folder / RESULTS, earlier | outcome.sections)
    return outcome.failures


def opened(
    sae_folder: Path, cfg: DictConfig, folder: Path, record: dict[str, Any] | None = None
) -> tuple[SparseAutoencoder, EvaluationComponents]:
    """Load an SAE, open the source of activations of a config, and see that they fit.

    Args:
        sae_folder: holds the SAE, in any format that is read.
        cfg: a composed config.
        folder: of the run.
        record: of the run that has trained the SAE, if one of this package has.

    Raises:
        InvalidOption, RunError: one cannot be had, or they do not fit.
    """
    load_plugins(cfg.plugins)  # a format of one's own may be among them
    sae = load_sae(sae_folder)
    components = build_evaluation(cfg, folder)
    source = components.source
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    if record and (changes := changes_of(source, config, record, folder)):
        log.warning("these are not the data that the SAE was trained on: %s", changes)
    check_width(source, sae, sae_folder)
    sae.to(source.device)
    return sae, components


def check_width(source: ActivationSource, sae: SparseAutoencoder, sae_folder: Path) -> None:
    """Refuse an SAE that takes activations of another width.

    Raises:
        InvalidOption, RunError: see above.
    """
    if sae.d_in == source.d_in:
        return
    if place := source.metadata()["hook_name"]:
        raise InvalidOption(
            "model.hook_name",
            place,
            f"a place of width {sae.d_in}, which {sae_folder} was trained on; in {source.name} it "
            f"is {source.d_in} wide",
        )
    raise RunError(
        f"{sae_folder}: takes activations of width {sae.d_in}; those of {source.name} have "
        f"{source.d_in}"
    )


def results_in(folder: Path) -> dict[str, Any]:
    """Return the results so far, none at first."""
    try:
        return schemas.read_results(folder / RESULTS)
    except FileNotFoundError:
        return {}
