"""The options of each evaluation, by SAEBench's names, and the job that is made of them.

The defaults stand in `conf/eval/saebench.yaml` and nowhere else: its sections are the evaluations,
in the order in which they run, and the kind of a default is the kind that a value has to be of.
sae_bench's own config classes judge the values again where the evaluation runs.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from omegaconf import OmegaConf

from temporal_sae.commands import CONF
from temporal_sae.errors import (
    InvalidOption,
    check_bool,
    check_choice,
    check_int,
    check_number,
    check_words,
)

_CONFIG: Any = OmegaConf.to_object(OmegaConf.load(CONF / "eval" / "saebench.yaml"))
DEFAULTS: dict[str, dict[str, Any]] = {k: v for k, v in _CONFIG.items() if isinstance(v, dict)}
EVALUATIONS, MAIN_EVALUATIONS = tuple(DEFAULTS), tuple(_CONFIG["evals"])
CHOICES: dict[str, tuple[Any, ...]] = {
    # SAEBench computes other sizes too, and then its record has no place for them.
    "k_values": (1, 2, 5, 10, 20, 50, 100),
    "n_values": (2, 5, 10, 20, 50, 100, 500),
    "reg_type": ("l1", "l2"),
}
VERSIONS = ("sae-bench", "transformer-lens", "transformers", "torch", "datasets")
# Of the kind that options have which are null by default; the others are texts.
LIKE_OF_NULL = {"full_dataset_downsample": 1, "temperature": 1.0, "dataset_names": ["text"]}


def completed(evaluation: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options of one evaluation, those that are not given at their defaults.

    Raises:
        InvalidOption: a key is unknown, or a value is not of the kind that its default is.
    """
    defaults = DEFAULTS[evaluation]
    if given is not None and not isinstance(given, Mapping):
        raise InvalidOption(evaluation, given, f"options such as {', '.join(defaults)}")
    chosen = dict(given or {})
    if unknown := sorted(chosen.keys() - defaults.keys()):
        allowed = f"left out, as the options are {', '.join(defaults)}"
        raise InvalidOption(f"{evaluation}.{unknown[0]}", chosen[unknown[0]], allowed)
    options = {}
    for key, value in (copy.deepcopy(defaults) | chosen).items():
        options[key] = checked = _checked(f"{evaluation}.{key}", value, defaults[key])
        # SAEBench has code for the data sets of its defaults alone.
        choices = CHOICES.get(key) or (key == "dataset_names" and defaults[key])
        if choices:
            for item in checked if isinstance(checked, list) else [checked]:
                check_choice(f"{evaluation}.{key}", item, choices)
    return options


def _checked(option: str, value: Any, like: Any) -> Any:
    """Return the value if it is of the kind of `like`."""
    if like is None and value is None:
        return None
    if like is None:
        like = LIKE_OF_NULL.get(option.split(".")[-1], "text")
    if isinstance(like, list):
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise InvalidOption(option, value, "a list that is not empty")
        checked: Any = [_checked(option, item, like[0]) for item in value]
    elif isinstance(like, dict):
        if not isinstance(value, Mapping) or not value:
            raise InvalidOption(option, value, "a list for each name, {name: [a, b]}")
        sample = next(iter(like.values()))
        checked = {name: _checked(option, item, sample) for name, item in value.items()}
    elif isinstance(like, bool):
        checked = check_bool(option, value)
    elif isinstance(like, int):
        checked = check_int(option, value, 1 if like > 0 else -(2**31))
    elif isinstance(like, float):
        checked = check_number(option, value)
    else:
        checked = check_words(option, value)
    return checked


@dataclass(frozen=True)
class Job:
    """One evaluation of one SAE, as it crosses to the process that runs it."""

    evaluation: str  # one of EVALUATIONS
    sae_folder: str  # read by `load_sae`
    architecture: str  # written into SAEBench's `sae_cfg_dict`
    model_name: str  # as TransformerLens knows it
    hook_name: str  # blocks.L.hook_resid_post or blocks.L.hook_resid_pre
    prepend_bos: bool  # windows of text begin with BOS
    device: str  # of the model and the SAE
    llm_dtype: str  # of both
    llm_batch_size: int  # texts in one forward pass
    seed: int  # fixes everything that is random
    options: dict[str, Any]  # of the evaluation, by SAEBench's names
    keep_artifacts: bool  # other SAEs will read them; otherwise they need not be written
    artifacts: str = ""  # folder for activations and probes, of this configuration alone

    @property
    def layer(self) -> int:
        """L of the hook's name."""
        return int(self.hook_name.split(".")[1])

    @property
    def sae_set(self) -> str:
        """SAEBench's name for a release."""
        return f"{self.model_name}_layer_{self.layer}_sae"


def package_version(name: str) -> str | None:
    """Return the version of an installed package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def artifacts_name(job: Job, data_folder: str | None) -> str:
    """Return the name of the folder for what does not depend on the SAE.

    There is one for each configuration: sae_bench names its files after model, hook and data set
    only, and then reads probes of other sizes, seeds and types as if they were the ones asked for.
    """
    decisive = {
        "model": [job.model_name, job.hook_name, job.layer, job.llm_dtype, job.llm_batch_size],
        "device": torch.device(job.device).type,
        "seed": job.seed,
        "options": {k: v for k, v in job.options.items() if not of_the_sae_alone(job, k)},
        "data": data_folder,
        "versions": {name: package_version(name) for name in VERSIONS},
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return f"{job.evaluation}-{digest[:16]}"


def of_the_sae_alone(job: Job, option: str) -> bool:
    """Return whether an option says how an SAE is judged, once there are activations and probes."""
    if job.evaluation == "absorption":
        return not option.startswith("prompt_")
    return option in ("n_values", "sae_batch_size", "lower_vram_usage")
