"""sparsify (EleutherAI): a folder a hookpoint, with `cfg.json` and `sae.safetensors`.

A TopK SAE whose input is centered by b_dec, as here. An SAE with Multi-TopK has no one function:
`encode` gives k latents, and `forward` reconstructs from 4 k.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from temporal_sae.errors import RunError, check_int, printable
from temporal_sae.registry import component
from temporal_sae.sae.formats.stored import (
    Format,
    Stored,
    as_float32,
    check_shapes,
    read_object,
    read_safetensors,
    shown,
    transposed,
)
from temporal_sae.sae.topk import TopKSAE

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
# Options that change the function, at the value that means TopK as here.
SWITCHES = {
    "activation": "topk",
    "transcode": False,
    "skip_connection": False,
    "multi_topk": False,
    "signed": False,
}
HARMLESS = {"d_in", "num_latents", "expansion_factor", "k", "normalize_decoder"}


def read(weights: Path) -> Stored:
    """Return the SAE of a folder that `SparseCoder.save_to_disk` wrote.

    Raises:
        RunError: a file is missing or damaged, or an option makes it something else than a TopK
            SAE (a transcoder, a skip connection, Multi-TopK, groupmax, signed latents).
    """
    folder = weights.parent
    config = read_object(folder / CONFIG)
    _refuse_options(folder, config)
    d_in, d_sae = _sizes(config)
    stored = as_float32(folder, read_safetensors(weights))
    if unknown := sorted(stored.keys() - set(NAMES.values())):
        raise RunError(f"{folder}: {printable(unknown[0])}: a TopK SAE has no such tensor")
    tensors = {ours: stored[theirs] for ours, theirs in NAMES.items()}
    tensors["W_enc"] = transposed(stored, NAMES["W_enc"])
    check_shapes(d_in, d_sae, tensors)
    return Stored(TopKSAE, {"d_in": d_in, "d_sae": d_sae, "k": config["k"]}, tensors)


def _sizes(config: Mapping[str, Any]) -> tuple[int, int]:
    """d_in and d_sae; no number of latents means a multiple of d_in."""
    d_in = check_int("d_in", config["d_in"], 1)
    if latents := config.get("num_latents"):
        return d_in, check_int("num_latents", latents, 1)
    return d_in, d_in * check_int("expansion_factor", config["expansion_factor"], 1)


def _refuse_options(folder: Path, config: Mapping[str, Any]) -> None:
    for key, expected in SWITCHES.items():
        if config.get(key, expected) != expected:
            value = shown(config[key])
            raise RunError(f"{folder}: {key}={value} is not supported, only {expected!r}")
    # What a later version adds may change the function, unless it is switched off.
    for key in sorted(config.keys() - HARMLESS - SWITCHES.keys()):
        if config[key]:
            option = f"{printable(key)}={shown(config[key])}"
            raise RunError(f"{folder}: {option} is an option that is not known")


FORMAT = component("format")(Format("sparsify", WEIGHTS, WEIGHTS, CONFIG, read))
