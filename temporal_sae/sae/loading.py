"""Read an SAE from a folder.

A `cfg.json` only ever chooses among the architectures below; it never names a class.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.sae.base import SparseAutoencoder
from temporal_sae.sae.saving import CONFIG, WEIGHTS
from temporal_sae.sae.standard import StandardSAE
from temporal_sae.sae.topk import TopKSAE

ARCHITECTURES: dict[str, type[SparseAutoencoder]] = {
    cls.architecture: cls for cls in (TopKSAE, StandardSAE)
}


def load_sae(folder: str | Path, device: str = "cpu") -> SparseAutoencoder:
    """Read an SAE that `SparseAutoencoder.save`, or SAELens with the same conventions, wrote.

    Raises:
        RunError: a file is missing or damaged, the architecture is unknown, or the SAE follows a
            convention (input normalisation, reshaping) that would change its meaning here.
    """
    folder = Path(folder)
    config = _read_config(folder)
    cls = ARCHITECTURES.get(config.get("architecture", ""))
    if cls is None:
        known = ", ".join(ARCHITECTURES)
        raise RunError(
            f"{folder}: architecture {config.get('architecture')!r} is not known; known: {known}"
        )
    conventions = {
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
    }
    for key, expected in conventions.items():
        if config.get(key, expected) != expected:
            raise RunError(f"{folder}: {key}={config[key]!r} is not supported, only {expected!r}")
    try:
        sae = cls(**{key: config[key] for key in ("d_in", "d_sae", "k") if key in config})
        sae.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError, TypeError, InvalidOption) as error:
        raise RunError(f"{folder}: cannot be read ({_first_line(error)})") from error
    return sae.to(device)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{folder / CONFIG}: cannot be read ({_first_line(error)})") from error
    return config


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
