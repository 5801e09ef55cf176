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
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval import EvaluationFiles, Subject
from temporal_sae.experiment.build import EvaluationComponents, build_evaluation
from temporal_sae.experiment.components import check_stored, load_plugins
from temporal_sae.experiment.construct import naming
from temporal_sae.experiment.determinism import deterministic_on_cpu
from temporal_sae.experiment.folder import RECORD, RunFolder
from temporal_sae.experiment.text_record import changes_of
from temporal_sae.files import write_json
from temporal_sae.report import build_report
from temporal_sae.report.build import read_run
from temporal_sae.sae import SparseAutoencoder, load_sae

log = logging.getLogger(__name__)

RESULTS = "results.json"


def subject_of(
    sae: SparseAutoencoder,
    sae_folder: Path,
    components: EvaluationComponents,
    data: dict[str, Any],
    folder: Path,
) -> Subject:
    """A saved SAE with everything it is judged by.

    Args:
        sae: what `sae_folder` holds.
        sae_folder: where it is saved.
        components: model, text and evaluation.
        data: the config of the text.
        folder: receives a file per evaluation.
    """
    identity = {
        "sae": weights_hash(sae),
        "model": [components.model.name, components.model.hook_name, components.model.dtype],
        "window": [components.source.context_size, components.source.prepend_bos],
        "data": [{k: v for k, v in data.items() if k != "changed"}, components.text.describe()],
        "version": version("temporal_sae"),
    }
    files = EvaluationFiles(folder, identity)
    return Subject(
        sae, sae_folder, components.model, components.source, components.text, files, say=log.info
    )


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
        run.set_aside_misfits()
        failures = evaluate_saved(folder / "sae", cfg, folder, record)
        if record["status"] == "failed" and not failures:
            record = {k: v for k, v in record.items() if k != "reason"} | {"status": "finished"}
        record["config"]["eval"] = OmegaConf.to_container(cfg.eval, resolve=True)
        run.write(record)
        build_report(folder)
    return failures


def evaluation_config(folder: Path, options: DictConfig) -> DictConfig:
    """Return the typed config with the model, text and activations of the run in `folder`.

    Raises:
        RunError: the record does not have it, or has what a folder may not say.
    """
    config = schemas.read(folder / RECORD, schemas.EvaluatedRecord)["config"]
    own = {group: config[group] for group in ("model", "data", "activations")}
    check_stored(own, options.plugins, folder / RECORD)
    cfg = options.copy()
    with open_dict(cfg):
        for group, stored in own.items():
            cfg[group] = stored
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
    load_plugins(cfg.plugins)  # a format of one's own may be among them
    sae = load_sae(sae_folder)
    components = build_evaluation(cfg, folder)
    if record and (changes := changes_of(components.text, record, folder)):
        log.warning("this is not the text that the SAE was trained on: %s", changes)
    if sae.d_in != components.model.d_in:
        raise InvalidOption(
            "model.hook_name",
            components.model.hook_name,
            f"a place of width {sae.d_in}, which {sae_folder} was trained on; in "
            f"{components.model.name} it is {components.model.d_in} wide",
        )
    with naming("eval"):
        components.evaluation.check(components.model, sae, components.text)
    sae.to(components.model.device)
    data: dict[str, Any] = OmegaConf.to_container(cfg.data, resolve=True)  # type: ignore[assignment]
    with deterministic_on_cpu(components.model.device):
        outcome = components.evaluation.run(
            subject_of(sae, sae_folder, components, data, folder / "eval")
        )
    write_json(folder / RESULTS, earlier | outcome.sections)
    return outcome.failures


def results_in(folder: Path) -> dict[str, Any]:
    """The results so far, none at first."""
    try:
        return schemas.read_results(folder / RESULTS)
    except FileNotFoundError:
        return {}
