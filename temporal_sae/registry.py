"""Components announce themselves in their own files, and nobody else keeps a list.

A class below `@component("sae")` can be named by `sae._target_`, on the command line and in a
folder that a run has left. Whoever wants to know which there are asks `components`, which imports
the modules of this package where such classes lie.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import TypeVar

T = TypeVar("T", bound=type)

# Where the components of each config group lie. A module begun with `_` is a program.
PACKAGES = {
    "model": "activations",
    "data": "data",
    "activations": "activations",
    "sae": "sae",
    "tracker": "tracker",
    "loss": "loss",
    "trainer": "training",
    "eval": "eval",
    "logger": "training",
}
_announced: dict[str, list[type]] = {}


def component(place: str) -> Callable[[T], T]:
    """Announce a class as one that may stand at that key of the config: `sae`, `eval.scr`, …"""

    def announce(cls: T) -> T:
        _announced.setdefault(place, []).append(cls)
        return cls

    return announce


def components(place: str) -> tuple[type, ...]:
    """The classes announced for a key, those of imported plug-ins among them."""
    if package := PACKAGES.get(place.split(".")[0]):
        _import_modules_of(f"{__package__}.{package}")
    return tuple(_announced.get(place, ()))


def names_of(cls: type) -> tuple[str, ...]:
    """The full names under which a class can be imported: from its module or a package above."""
    module, _, _ = cls.__module__.rpartition(".")
    names = [f"{cls.__module__}.{cls.__qualname__}"]
    while module:
        if vars(sys.modules[module]).get(cls.__name__) is cls:
            names.insert(0, f"{module}.{cls.__qualname__}")
        module, _, _ = module.rpartition(".")
    return tuple(names)


@cache
def _import_modules_of(package: str) -> None:
    for found in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        if not found.name.rpartition(".")[2].startswith("_"):
            import_module(found.name)
