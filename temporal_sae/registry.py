"""Components announce themselves in their own files, and nobody else keeps a list.

A class below `@component("sae")` can be named by `sae._target_`, on the command line and in a
folder that a run has left. Measures and formats are no part of a config and are announced in the
same way. Whoever wants to know which there are asks `components`, which imports the modules of this
package where they lie.
"""

from __future__ import annotations

import pkgutil
import re
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")

# Where the components of each place lie. A module begun with `_` is a program.
PACKAGES = {
    "model": "activations",
    "data": "data",
    "activations": "activations",
    "sae": "sae",
    "tracker": "tracker",
    "loss": "loss",
    "trainer": "training",
    "eval": "eval",
    "measure": "eval",
    "format": "sae.formats",
    "logger": "training",
}
_announced: dict[str, list[Any]] = {}


def component(place: str) -> Callable[[T], T]:
    """Announce what may stand at a place: a class at a key of the config, `sae` or `eval.scr`."""

    def announce(announced: T) -> T:
        _announced.setdefault(place, []).append(announced)
        return announced

    return announce


def components(place: str) -> tuple[Any, ...]:
    """Return what is announced for a place, by imported plug-ins too.

    The items of a list, such as `data.parts.0`, are announced by the list's key, and so are those
    of such a list in an item, `data.parts.0.parts.1`.
    """
    if re.fullmatch(r"logger\.\w+", place):  # a run may have several, each below its name
        place = "logger"
    place = re.sub(r"(\.\w+)(?:\.\d+\1)*\.\d+$", r"\1", place)
    if package := PACKAGES.get(place.split(".")[0]):
        _import_modules_of(f"{__package__}.{package}")
    return tuple(_announced.get(place, ()))


def names_of(cls: type) -> tuple[str, ...]:
    """Return the full names of a class: in its module, and in packages above that have it."""
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
