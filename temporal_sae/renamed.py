"""Config keys, options and values of earlier versions, with the names they have now.

What a person types under an old name is answered with the new one. What lies in a folder that an
earlier version has written is read as if it had been written today.
"""

from __future__ import annotations

import re
from typing import Any

KEYS = {
    "activations.batch_windows": "activations.lm_batch_size",
    "activations.include_bos": "activations.exclude",
    "eval.batch_windows": "eval.lm_batch_size",
    "eval.n_reconstruction_windows": "eval.n_reconstruction_sequences",
    "eval.n_sparsity_windows": "eval.n_sparsity_sequences",
    "eval.core.batch_windows": "eval.core.lm_batch_size",
    "eval.core.n_reconstruction_windows": "eval.core.n_reconstruction_sequences",
    "eval.core.n_sparsity_windows": "eval.core.n_sparsity_sequences",
    "logger._target_": "logger.jsonl._target_",
    "logger.project": "logger.wandb.project",
}
# Without a successor, with what there is instead.
GONE = {
    "hydra.sweeper.max_batch_size": (
        "is gone: workers take jobs by themselves, and with hydra/launcher=local "
        "hydra.launcher.workers=N says how many workers there are"
    ),
}
# Of groups: `loss=separation`; of keys: `loss.weighting=none`.
VALUES: dict[str, dict[str, str]] = {
    "activations": {"default": "harvest"},
    "activations._target_": {
        "temporal_sae.activations.ActivationSource": "temporal_sae.activations.Harvest"
    },
    "activations.include_bos": {"true": "[]", "false": "[bos,separators]"},
    "loss": {"separation": "orthogonality"},
    "loss.weighting": {
        "none": "co_activation",
        "only": "instability_only",
        "average": "long_average",
    },
}


def new_key(key: str) -> str | None:
    """Return what a key is called now, None for one that has not been renamed."""
    return KEYS.get(key)


def new_value(key: str, value: Any) -> str | None:
    """Return what a value of a key or group is called now, None where nothing has changed."""
    name = str(value).lower() if isinstance(value, bool) else value
    return VALUES.get(key, {}).get(name) if isinstance(name, str) else None


def current_config(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the config of a run as it would be written today; the order of its keys stays."""
    renamed: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            value = current_config(value, f"{key}.")
        if isinstance(new := new_value(key, value), str):
            value = new.strip("[]").split(",") if new.startswith("[") else new
            value = [name for name in value if name] if isinstance(value, list) else value
        now = (new_key(key) or key)[len(prefix) :]
        renamed[name if "." in now else now] = value  # the keys of a whole option stay together
    return renamed


def current_override(override: str) -> str:
    """Return `key=value` of a command line as it would be typed today."""
    key, equals, value = override.partition("=")
    mark, key = re.fullmatch(r"([+~]*)(.*)", key, re.DOTALL).groups()  # type: ignore[union-attr]
    values = ",".join(new_value(key, part) or part for part in value.split(","))
    return f"{mark}{new_key(key) or key}{equals}{values}"
