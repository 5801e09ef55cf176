"""dictionary_learning: `ae.pt`, a state dict, and `config.json`, which names its class.

The functions are those of the classes in version 0.1.0 as they encode when nothing else is asked
for. Its linear layers hold weights as [out, in], the transpose of what is stored here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from temporal_sae.errors import RunError, check_int, printable
from temporal_sae.registry import component
from temporal_sae.sae.base import SparseAutoencoder
from temporal_sae.sae.batch_topk import BatchTopKSAE
from temporal_sae.sae.formats.folding import fold_uncentered_input
from temporal_sae.sae.formats.stored import (
    Format,
    Stored,
    as_float32,
    check_shapes,
    check_threshold,
    read_object,
    read_pt,
    shown,
    transposed,
)
from temporal_sae.sae.gated import GatedSAE
from temporal_sae.sae.jumprelu import JumpReLUSAE
from temporal_sae.sae.matryoshka import MatryoshkaSAE
from temporal_sae.sae.standard import StandardSAE
from temporal_sae.sae.topk import TopKSAE

CONFIG, WEIGHTS = "config.json", "ae.pt"


class Layout(NamedTuple):
    """Names and conventions by which a class of the package stores its parameters.

    Attributes:
        cls: what it is here.
        names: the tensors by the names they get here.
        centers: whether b_dec is subtracted from the input.
        passed_over: tensors that do not enter the function, or are read otherwise.
    """

    cls: type[SparseAutoencoder]
    names: dict[str, str]
    centers: bool = True
    passed_over: frozenset[str] = frozenset()


LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
GATED = {
    "W_enc": "encoder.weight",
    "b_gate": "gate_bias",
    "b_mag": "mag_bias",
    "r_mag": "r_mag",
    "W_dec": "decoder.weight",
    "b_dec": "decoder_bias",
}
LAYOUTS = {
    "AutoEncoder": Layout(StandardSAE, {**LINEAR, "b_dec": "bias"}),
    "AutoEncoderNew": Layout(StandardSAE, {**LINEAR, "b_dec": "decoder.bias"}, centers=False),
    "GatedAutoEncoder": Layout(GatedSAE, GATED),
    "JumpReluAutoEncoder": Layout(JumpReLUSAE, PLAIN, centers=False),
    # Its threshold stands in for the k largest only where `encode` is told so.
    "AutoEncoderTopK": Layout(
        TopKSAE, {**LINEAR, "b_dec": "b_dec"}, passed_over=frozenset({"k", "threshold"})
    ),
    "BatchTopKSAE": Layout(
        BatchTopKSAE,
        {**LINEAR, "b_dec": "b_dec", "threshold": "threshold"},
        passed_over=frozenset({"k"}),
    ),
    "MatryoshkaBatchTopKSAE": Layout(
        MatryoshkaSAE, PLAIN, passed_over=frozenset({"k", "group_sizes"})
    ),
}


def read(weights: Path) -> Stored:
    """Return the SAE of a folder that its `trainSAE` wrote, or of one file in its `checkpoints`.

    Raises:
        RunError: a file is missing or damaged, the class is unknown, a threshold was never set, or
            it is a transcoder.
    """
    config = read_object(_config_of(weights))
    trainer, folder = config.get("trainer"), weights.parent
    name = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or name not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise RunError(f"{folder}: dict_class={shown(name)} is not known; known: {known}")
    if (config.get("buffer") or {}).get("io") == "in_and_out":
        raise RunError(f"{folder}: io='in_and_out': a transcoder, which is not supported")
    layout, stored = LAYOUTS[name], read_pt(weights)
    tensors = _renamed(folder, layout, stored)
    d_in, d_sae = _sizes(folder, trainer, tensors)
    if not layout.centers:
        tensors = fold_uncentered_input(tensors)
    config = {"d_in": d_in, "d_sae": d_sae, **_options(folder, layout.cls, trainer, stored, d_sae)}
    return Stored(layout.cls, config, tensors)


def _config_of(weights: Path) -> Path:
    """Beside the weights; those of a checkpoint are one folder below."""
    folder = weights.parent
    config = (folder.parent if folder.name == "checkpoints" else folder) / CONFIG
    if not config.is_file():
        raise RunError(
            f"{weights}: cannot be used without {config}, which names the class it was made by"
        )
    return config


def _renamed(folder: Path, layout: Layout, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters by our names, in our orientation."""
    unknown = sorted(stored.keys() - set(layout.names.values()) - layout.passed_over)
    if unknown:
        raise RunError(f"{folder}: {printable(unknown[0])}: this class has no such tensor")
    used = as_float32(folder, {theirs: stored[theirs] for theirs in layout.names.values()})
    return {
        ours: transposed(used, theirs) if theirs.endswith(".weight") else used[theirs]
        for ours, theirs in layout.names.items()
    }


def _sizes(folder: Path, trainer: Mapping[str, Any], tensors: dict[str, Tensor]) -> tuple[int, int]:
    """d_in and d_sae, which are those of the weights; a threshold for all becomes one a latent."""
    d_in, d_sae = tensors["W_enc"].shape
    if "threshold" in tensors and tensors["threshold"].ndim == 0:
        tensors["threshold"] = tensors["threshold"].expand(d_sae)
    check_shapes(d_in, d_sae, tensors)
    if "threshold" in tensors and d_sae:
        tensors["threshold"] = check_threshold(folder, tensors["threshold"])
    for key, size in (("activation_dim", d_in), ("dict_size", d_sae)):
        if trainer.get(key, size) != size:
            said = f"{key}={shown(trainer[key])} in {CONFIG}"
            raise RunError(f"{folder}: {said}, but {size} in the weights")
    return d_in, d_sae


def _options(
    folder: Path,
    cls: type[SparseAutoencoder],
    trainer: Mapping[str, Any],
    stored: Mapping[str, Tensor],
    d_sae: int,
) -> dict[str, Any]:
    """Return the arguments of the constructor besides the sizes."""
    if not issubclass(cls, TopKSAE | BatchTopKSAE):
        return {}
    k = _k(folder, trainer, stored)
    if cls is TopKSAE:
        return {"k": k}
    trained_as: dict[str, Any] = {"k": k}
    if cls is MatryoshkaSAE:
        sizes = stored["group_sizes"].flatten().tolist()
        trained_as["group_fractions"] = [check_int("group_sizes", n, 1) / d_sae for n in sizes]
    return {"trained_as": trained_as}


def _k(folder: Path, trainer: Mapping[str, Any], stored: Mapping[str, Tensor]) -> int:
    """k, which the weights hold, the config, or both."""
    found = {check_int("k", stored["k"].item(), 1)} if "k" in stored else set()
    found |= {check_int("k", trainer["k"], 1)} if "k" in trainer else set()
    if len(found) != 1:
        said = " and ".join(map(str, sorted(found))) or "nothing"
        raise RunError(f"{folder}: k: {CONFIG} and weights must say one number, they say {said}")
    return found.pop()


FORMAT = component("format")(Format("dictionary_learning", WEIGHTS, "ae*.pt", CONFIG, read))
