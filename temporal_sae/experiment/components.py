"""The classes that a config may name.

What a person types may name any class. A config that lies in a folder may have been written by
anybody, and building what it names would run their code: from there only classes that are announced
in `registry` are built, and those of modules that the person names in `plugins`, each time anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.experiment.construct import TARGET
from temporal_sae.registry import components, names_of

ENTRY_POINTS = "temporal_sae.plugins"


def load_plugins(names: Any) -> None:
    """Import the modules that a person has named in `plugins`, and no others.

    Raises:
        InvalidOption: they are not named in a list, or one cannot be imported.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InvalidOption("plugins", names, "a list of modules, such as [my_module]")
    for name in names:
        module = module_of(name) if isinstance(name, str) else ""
        if not all(part.isidentifier() for part in module.split(".")):
            raise InvalidOption("plugins", name, "names of modules, such as my_module")
        try:
            import_module(module)
        except ImportError as error:
            allowed = f"names of modules that can be imported ({error}); PYTHONPATH says from where"
            raise InvalidOption("plugins", name, allowed) from error


def module_of(name: str) -> str:
    """Return the module that a name in `plugins` stands for, which is not imported for that.

    An installed package may give a module of its own a name, by an entry point of the group
    `temporal_sae.plugins`. Any other name is that of a module itself.

    Raises:
        InvalidOption: packages give that name to different modules.
    """
    points = entry_points(group=ENTRY_POINTS, name=name)
    modules = sorted({point.value.partition(":")[0].strip() for point in points})
    if len(modules) > 1:
        allowed = f"one of {', '.join(modules)}, since several installed packages have that name"
        raise InvalidOption("plugins", name, allowed)
    return modules[0] if modules else name


def check_stored(config: Any, plugins: Sequence[str], source: Path) -> None:
    """Refuse a config from a file that could do anything but build known classes from plain data.

    Args:
        config: what the file holds.
        plugins: what a person has named, and `load_plugins` imported; its classes may be built.
        source: of the config, for the message.

    Raises:
        RunError: it names another class, has another key that instantiating obeys, or a string that
            would be replaced, as `${oc.env:HOME}` by a variable of the environment.
    """
    modules = [module_of(name) for name in plugins]
    for place, key, value in entries(config):
        if key == TARGET and not is_known(place, value, modules):
            known = " or ".join(names_of(cls)[0] for cls in components(place)) or "left out here"
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
    """Return whether a class that a file names may be built below the key `place`."""
    if not isinstance(target, str):
        return False
    # Compared as a whole: `temporal_sae.files.os.system` has a prefix of this package, too.
    announced = any(target in names_of(cls) for cls in components(place))
    return announced or is_of_plugin(target, plugins)


def is_of_plugin(target: str, plugins: Sequence[str]) -> bool:
    """Return whether one of these modules, or one below, defines the class of that full name.

    Nothing is imported to find out: which modules are is up to the person alone.
    """
    module, _, name = target.rpartition(".")
    if not is_below(module, plugins):
        return False
    found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    return isinstance(found, type) and is_below(found.__module__, plugins)


def is_below(module: str, plugins: Sequence[str]) -> bool:
    """Return whether a module is one of these or lies in one of them."""
    return any(module == plugin or module.startswith(f"{plugin}.") for plugin in plugins)
