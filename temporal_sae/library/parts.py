"""From what a person names in one call to the objects that it stands for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from temporal_sae.errors import InvalidOption
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.registry import components
from temporal_sae.sae import SparseAutoencoder, load_sae
from temporal_sae.tracker import CoActivationTracker, NoTracker
from temporal_sae.training import Trainer

D_SAE, ARCHITECTURE = 4096, "topk"
SIZES = ("d_in", "d_sae")
NOT_HERE = ("num_tokens", "batch_size", "keep_every")  # of Trainer; the last needs a run's folder


def divided(
    options: Mapping[str, Any], sae: str | SparseAutoencoder
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of the trainer, and those of the architecture.

    Raises:
        InvalidOption: one is of neither, or the SAE that is given has its options already.
    """
    trainer = inspect.signature(Trainer).parameters.keys() - NOT_HERE
    own = set() if isinstance(sae, SparseAutoencoder) else named(architecture(sae)) - {*SIZES}
    check_names(options, trainer | own)
    return (
        {name: value for name, value in options.items() if name in trainer},
        {name: value for name, value in options.items() if name not in trainer},
    )


def named(cls: Callable[..., Any]) -> set[str]:
    """Return the names of the options of a class."""
    return {*inspect.signature(cls).parameters}


def check_names(options: Mapping[str, Any], known: set[str], whole: str = "") -> None:
    """Refuse options that there are not.

    Raises:
        InvalidOption: with the nearest name first.
    """
    for name, value in options.items():
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            others = [*near, *sorted(known - {*near})]
            raise InvalidOption(whole + str(name), value, f"one of {', '.join(others)}")


def architecture(name: Any) -> type[SparseAutoencoder]:
    """Return the class of an architecture.

    Raises:
        InvalidOption: there is none of that name.
    """
    known = {cls.trained_as: cls for cls in components("sae")}
    if not isinstance(name, str) or name not in known:
        raise InvalidOption("sae", name, f"one of {', '.join(sorted(known))}, or an SAE")
    return known[name]


def find_start(finetune: Any) -> SparseAutoencoder | None:
    """Return the SAE from which training starts, read from its folder.

    Raises:
        InvalidOption, RunError: it is none.
    """
    if isinstance(finetune, (str, Path)):
        return load_sae(finetune)
    if finetune is None or isinstance(finetune, SparseAutoencoder):
        return finetune
    raise InvalidOption("finetune", finetune, "the folder of an SAE, or an SAE")


def make_sae(
    sae: str | SparseAutoencoder,
    d_in: int,
    d_sae: int | None,
    start: SparseAutoencoder | None,
    options: Mapping[str, Any],
) -> SparseAutoencoder:
    """Return the SAE itself, or one of that architecture.

    What is not given is as in `start`, an SAE of the same architecture.

    Raises:
        InvalidOption: it has another width than the activations, or lacks an option.
    """
    if isinstance(sae, SparseAutoencoder):
        if sae.d_in != d_in or (d_sae is not None and sae.d_sae != d_sae):
            allowed = f"an SAE with d_in {d_in}, as the activations have"
            if sae.d_in == d_in:
                allowed = f"an SAE with d_sae {d_sae}; leave out d_sae to use it as it is"
            raise InvalidOption("sae", f"d_in {sae.d_in}, d_sae {sae.d_sae}", allowed)
        return sae
    cls = architecture(sae)
    given = {"d_in": d_in, "d_sae": D_SAE if d_sae is None else d_sae, **options}
    if start is not None:
        same = start.config() if isinstance(start, cls) else {"d_sae": start.d_sae}
        asked = {**options} if d_sae is None else {**options, "d_sae": d_sae}
        given = {**same, **asked, "d_in": d_in}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.default is parameter.empty and name not in given:
            raise InvalidOption(name, None, f"given for sae={sae}, which has no default for it")
    return cls(**given)


def make_tracker(given: Any, d_sae: int, device: torch.device) -> Any:
    """Return the tracker itself, or one with the options that are given.

    Raises:
        InvalidOption: it is no tracker, or one of the options is not known or out of range.
    """
    if given is None:
        return NoTracker(d_sae, device=device)
    if given == "co_activation" or isinstance(given, Mapping):
        options = given if isinstance(given, Mapping) else {}
        check_names(options, named(CoActivationTracker) - {"n_latents", "device"}, "tracker.")
        return CoActivationTracker(d_sae, device=device, **options)
    if not hasattr(given, "update"):
        raise InvalidOption("tracker", given, "co_activation, a dictionary of options or a tracker")
    return given


def make_penalty(given: Any) -> Any:
    """Return the penalty itself, or one with the options that are given.

    Raises:
        InvalidOption: it is no penalty, or one of the options is not known or out of range.
    """
    if given is None:
        return OrthogonalityLoss(ortho_weight=0.0)
    if given == "orthogonality" or isinstance(given, Mapping):
        options = given if isinstance(given, Mapping) else {}
        check_names(options, named(OrthogonalityLoss), "loss.")
        return OrthogonalityLoss(**options)
    if not callable(given):
        raise InvalidOption("loss", given, "orthogonality, a dictionary of options or a penalty")
    return given
