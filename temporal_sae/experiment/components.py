"""Which classes a config may name.

What a person types may name any class. A config that lies in a folder may have been written by
anybody, and building what it names would run their code: from there only the classes of one table
are built, and those of modules that the person names in `plugins`, each time anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.experiment.construct import TARGET

# By the key of the config below which it stands: full names, compared as a whole. A prefix would
# protect nothing, since `temporal_sae.files.os.system` has that of this package.
COMPONENTS: dict[str, tuple[str, ...]] = {
    "model": ("temporal_sae.activations.LanguageModel",),
    "data": (
        "temporal_sae.data.StdlibText",
        "temporal_sae.data.TextFiles",
        "temporal_sae.data.HubText",
    ),
    "activations": ("temporal_sae.activations.ActivationSource",),
    "sae": (
        "temporal_sae.sae.TopKSAE",
        "temporal_sae.sae.BatchTopKSAE",
        "temporal_sae.sae.MatryoshkaSAE",
        "temporal_sae.sae.StandardSAE",
        "temporal_sae.sae.JumpReLUSAE",
        "temporal_sae.sae.GatedSAE",
    ),
    "tracker": (
        "temporal_sae.tracker.CoActivationTracker",
        "temporal_sae.tracker.TranscriptTracker",
        "temporal_sae.tracker.NoTracker",
    ),
    "loss": (
        "temporal_sae.loss.OrthogonalityLoss",
        "temporal_sae.loss.ConsecutiveLoss",
        "temporal_sae.loss.ChunkedOrthogonalityLoss",
    ),
    "trainer": ("temporal_sae.training.Trainer",),
    "eval": (
        "temporal_sae.eval.CoreEvaluation",
        "temporal_sae.eval.NoEvaluation",
        "temporal_sae.eval.tasks.TasksEvaluation",
        "temporal_sae.eval.saebench.SAEBenchEvaluation",
    ),
    "eval.core": ("temporal_sae.eval.CoreEvaluation",),
    "eval.snippets": ("temporal_sae.eval.tasks.SnippetOptions",),
    "eval.sparse_probing": ("temporal_sae.eval.tasks.SparseProbing",),
    "eval.scr": ("temporal_sae.eval.tasks.SpuriousCorrelationRemoval",),
    "eval.tpp": ("temporal_sae.eval.tasks.TargetedProbePerturbation",),
    "eval.absorption": ("temporal_sae.eval.tasks.Absorption",),
    "eval.downstream": ("temporal_sae.eval.tasks.Downstream",),
    "logger": ("temporal_sae.training.JsonlLogger", "temporal_sae.training.WandbLogger"),
}


def load_plugins(names: Any) -> None:
    """Import the modules that a person has named in `plugins`.

    Raises:
        InvalidOption: they are not named in a list, or one cannot be imported.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InvalidOption("plugins", names, "a list of modules, such as [my_module]")
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise InvalidOption("plugins", name, "names of modules, such as my_module")
        try:
            import_module(name)
        except ImportError as error:
            allowed = f"names of modules that can be imported ({error}); PYTHONPATH says from where"
            raise InvalidOption("plugins", name, allowed) from error


def check_stored(config: Any, plugins: Sequence[str], source: Path) -> None:
    """Refuse a config from a file that could do anything but build known classes from plain data.

    Args:
        config: what the file holds.
        plugins: modules that a person has named, and that are imported, whose classes may be built.
        source: of the config, for the message.

    Raises:
        RunError: it names another class, has another key that instantiating obeys, or a string that
            would be replaced, as `${oc.env:HOME}` by a variable of the environment.
    """
    for place, key, value in entries(config):
        if key == TARGET and not is_known(place, value, plugins):
            known = " or ".join(COMPONENTS.get(place, ())) or "left out here"
            raise RunError(
                f"{source}: {place}.{key}={value!r}: must be {known}; where it is a class of your "
                "own, name its module: plugins=[my_module]"
            )
        if key.startswith("_") and key != TARGET:
            raise RunError(f"{source}: {place}.{key}: must be left out; a folder may not set it")
        for text in (key, value):
            if isinstance(text, str) and "${" in text:
                raise RunError(
                    f"{source}: {place}.{key}={value!r}: must be without ${{…}}; what a folder "
                    "holds is never replaced by something else"
                )


def entries(config: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """(key of the enclosing mapping or list, own key, value) of everything in a config."""
    if isinstance(config, dict):
        inner = [(str(key), value) for key, value in config.items()]
    elif isinstance(config, (list, tuple)):
        inner = [(str(n), value) for n, value in enumerate(config)]
    else:
        return
    for key, value in inner:
        yield place, key, value
        yield from entries(value, f"{place}.{key}" if place else key)


def is_known(place: str, target: Any, plugins: Sequence[str]) -> bool:
    """Whether a class that a file names may be built below the key `place`."""
    if not isinstance(target, str):
        return False
    return target in COMPONENTS.get(place, ()) or is_of_plugin(target, plugins)


def is_of_plugin(target: str, plugins: Sequence[str]) -> bool:
    """Whether a full name is that of a class which one of these modules, or one below, defines.

    Nothing is imported to find out: which modules are is up to the person alone.
    """
    module, _, name = target.rpartition(".")
    if not is_below(module, plugins):
        return False
    found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    return isinstance(found, type) and is_below(found.__module__, plugins)


def is_below(module: str, plugins: Sequence[str]) -> bool:
    """Whether a module is one of these or lies in one of them."""
    return any(module == plugin or module.startswith(f"{plugin}.") for plugin in plugins)
