"""Entering a peer's package past its `__init__`, for the benchmarks and for tests/bench."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec


def enter_dictionary_learning() -> None:
    """Make its submodules importable.

    Its `__init__` imports activation buffers and with them nnsight, which neither its trainers nor
    its dictionaries use. So the package is entered as an empty module that knows its folder only.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    name = "dictionary_learning"
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(name=name)
    sys.modules[name] = module_from_spec(spec)
