"""SAELens 6, whose folder is also this package's own: `cfg.json`, `sae_weights.safetensors`.

Conventions that SAELens has and this package has not are folded into the weights where that keeps
the function, and refused where it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from temporal_sae.errors import RunError, check_int, check_number
from temporal_sae.registry import component, components
from temporal_sae.sae.base import SparseAutoencoder
from temporal_sae.sae.batch_topk import BatchTopKSAE
from temporal_sae.sae.formats.folding import (
    fold_decoder_norms,
    fold_input_factor,
    fold_uncentered_input,
)
from temporal_sae.sae.formats.stored import (
    Format,
    Stored,
    as_float32,
    check_shapes,
    check_threshold,
    never_set,
    read_object,
    read_safetensors,
    shown,
)
from temporal_sae.sae.jumprelu import JumpReLUSAE
from temporal_sae.sae.matryoshka import MatryoshkaSAE
from temporal_sae.sae.saving import CONFIG, WEIGHTS

# Names that exist while SAELens trains; its inference model is a JumpReLU SAE.
IN_TRAINING: dict[str, type[SparseAutoencoder]] = {
    "batchtopk": BatchTopKSAE,
    "matryoshka_batchtopk": MatryoshkaSAE,
}
SCALER = "activation_scaler.json"  # beside the weights of a checkpoint
RESCALED = ("topk", *IN_TRAINING)  # may have rescale_acts_by_decoder_norm


def read(weights: Path) -> Stored:
    """Return the SAE of a folder that `SparseAutoencoder.save`, or SAELens, wrote.

    Raises:
        RunError: a file is missing or damaged, the architecture is unknown, or the SAE follows a
            convention that cannot be folded into the weights.
    """
    folder = weights.parent
    config = _in_terms_of_6(folder, read_object(folder / CONFIG))
    cls = _class_of(folder, config)
    _refuse_conventions(folder, config)
    factor = _input_factor(folder, config)
    d_in, d_sae = (check_int(key, config[key], 1) for key in ("d_in", "d_sae"))
    tensors = _renamed(folder, config, as_float32(folder, read_safetensors(weights)))
    check_shapes(d_in, d_sae, tensors)
    if not config.get("apply_b_dec_to_input", True):
        tensors = fold_uncentered_input(tensors)
    if factor != 1.0:
        tensors = fold_input_factor(tensors, factor)
    if config.get("rescale_acts_by_decoder_norm"):
        tensors = fold_decoder_norms(tensors)
        if "threshold" in tensors:  # multiplied by the norms, which the factor has divided
            tensors["threshold"] = tensors["threshold"] / factor
    if "threshold" in tensors and "trained_as" not in config:
        tensors["threshold"] = check_threshold(folder, tensors["threshold"])
    if config["architecture"] in IN_TRAINING:
        return _trained_by_batch(cls, config, tensors)
    return Stored(cls, config, tensors)


def _class_of(folder: Path, config: Mapping[str, Any]) -> type[SparseAutoencoder]:
    name = config["architecture"]
    known = IN_TRAINING | _announced(saved_as_trained=True)
    if "trained_as" in config:  # what a JumpReLU SAE, say, was in training
        name, known = config["trained_as"]["architecture"], _announced(saved_as_trained=False)
    if name not in known:
        names = ", ".join(known)
        raise RunError(f"{folder}: architecture {shown(name)} is not known; known: {names}")
    return known[name]


def _announced(saved_as_trained: bool) -> dict[str, type[SparseAutoencoder]]:
    """Architectures by name, those saved as another's function apart from those that are not."""
    known: dict[str, type[SparseAutoencoder]] = {}
    for cls in components("sae"):
        if not issubclass(cls, SparseAutoencoder):
            continue
        if (cls.trained_as == cls.architecture) is not saved_as_trained:
            continue
        if known.setdefault(cls.trained_as, cls) is not cls:
            both = f"{known[cls.trained_as].__qualname__} and {cls.__qualname__}"
            raise RunError(f"{both} are both {cls.trained_as!r}; give one another `architecture`")
    return known


def _in_terms_of_6(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config without what SAELens wrote before version 6 in other words."""
    config = dict(config)
    activation = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    options = config.get("activation_fn_kwargs") or {}
    if activation == "topk":
        config |= {"architecture": "topk", "k": options.get("k", config.get("k"))}
    if activation not in ("relu", "topk") or options.get("signed"):
        said = f"activation_fn={shown(activation)} {shown(options)}"
        raise RunError(f"{folder}: {said} is not supported")
    if "architecture" not in config and "metadata" not in config:
        config["architecture"] = "standard"  # the only one before there were names
    if config.get("architecture") is None:
        raise RunError(f"{folder}: {CONFIG} names no architecture")
    normalized = config.get("normalize_activations")
    if normalized is None or isinstance(normalized, bool):
        config["normalize_activations"] = "expected_average_only_in" if normalized else "none"
    if "hook_z" in str(config.get("hook_name", config.get("hook_point", ""))):
        config.setdefault("reshape_activations", "hook_z")
    return config


def _refuse_conventions(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what the weights cannot express, and values that no version is known to write."""
    rescaled = (False, True) if config["architecture"] in RESCALED else (False,)
    allowed: dict[str, tuple[Any, ...]] = {
        "apply_b_dec_to_input": (True, False),
        "normalize_activations": ("none", "expected_average_only_in"),
        "reshape_activations": ("none",),
        "rescale_acts_by_decoder_norm": rescaled,
        "finetuning_scaling_factor": (False, None),
    }
    for key, values in allowed.items():
        if key in config and config[key] not in values:
            only = " or ".join(map(repr, values))
            raise RunError(f"{folder}: {key}={shown(config[key])} is not supported, only {only}")


def _input_factor(folder: Path, config: Mapping[str, Any]) -> float:
    """Return the factor that inputs are multiplied by before the SAE sees them.

    Raises:
        RunError: they are, and the folder does not say by how much. A finished SAE of SAELens has
            the factor in its weights and says `none`; a checkpoint has it in a file.
    """
    if config["normalize_activations"] == "none":
        return 1.0
    convention = f"normalize_activations={config['normalize_activations']!r}"
    if not (folder / SCALER).is_file():
        raise RunError(f"{folder}: {convention} is not supported without a factor in {SCALER}")
    scaler = read_object(folder / SCALER)
    if scaler.get("scaling_factor") is None or scaler.get("has_whitening"):
        raise RunError(f"{folder}: {convention}, but {SCALER} holds no factor alone")
    return check_number("scaling_factor", scaler["scaling_factor"], above=True)


def _renamed(
    folder: Path, config: Mapping[str, Any], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors by the names of an inference model, in which a threshold is one a latent.

    Raises:
        RunError: the threshold for all latents is none, or was never set.
    """
    if "scaling_factor" in tensors and bool((tensors["scaling_factor"] == 1).all()):
        del tensors["scaling_factor"]  # of old versions, which left it in without use
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    if config["architecture"] in IN_TRAINING:
        threshold = tensors.pop("topk_threshold")
        if threshold.numel() != 1:
            raise RunError(f"{folder}: topk_threshold holds {threshold.numel()} numbers, not one")
        if not bool(threshold > 0):  # the average begins at 0, and leaves it with the first step
            raise never_set(folder, "topk_threshold", threshold)
        tensors["threshold"] = threshold.flatten().expand(int(config["d_sae"]))
    return tensors


def _trained_by_batch(
    cls: type[SparseAutoencoder], config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Stored:
    """Return the inference-time function of a model that SAELens stored as it trains."""
    sizes = {key: int(config[key]) for key in ("d_in", "d_sae")}
    k = check_number("k", config["k"], above=True, maximum=sizes["d_sae"])
    if not k.is_integer():  # a share of a latent a token, which only SAELens can train
        return Stored(JumpReLUSAE, sizes, tensors)
    trained_as: dict[str, Any] = {"k": int(k)}
    if cls is MatryoshkaSAE:
        widths = [check_int("matryoshka_widths", n, 1) for n in config["matryoshka_widths"]]
        edges = sorted({*widths, sizes["d_sae"]})
        steps = [b - a for a, b in zip([0, *edges[:-1]], edges, strict=True)]
        trained_as["group_fractions"] = [step / sizes["d_sae"] for step in steps]
    return Stored(cls, {**sizes, "trained_as": trained_as}, tensors)


FORMAT = component("format")(Format("temporal_sae or SAELens", WEIGHTS, WEIGHTS, CONFIG, read))
