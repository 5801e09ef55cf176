"""From the name of a place in a language model to the module where its activations appear.

Two kinds of names are understood:

- TransformerLens names of the residual stream, `blocks.12.hook_resid_post` (the output of layer 12)
  and `blocks.12.hook_resid_pre` (its input), whatever the model calls its layers;
- any module path of the transformers model, `model.layers.12` or `model.layers.12.mlp`: the
  output of that module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from temporal_sae.errors import InvalidOption

TRANSFORMER_LENS_NAME = re.compile(r"blocks\.(\d{1,9})\.hook_resid_(pre|post)")


@dataclass(frozen=True)
class HookPoint:
    """A module and the side of it that is read: its output, or its first input."""

    module: nn.Module
    reads_input: bool
    layer: int | None


def find_hook_point(model: nn.Module, n_layers: int, hook_name: str) -> HookPoint:
    """Resolve `hook_name`.

    Raises:
        InvalidOption: no such layer or module; the message says what there is.
    """
    path, layers = find_layers(model, n_layers)
    match = TRANSFORMER_LENS_NAME.fullmatch(hook_name)
    if match is None:
        return _module_output(model, path, n_layers, hook_name)
    layer = int(match[1])
    if layer >= n_layers:
        raise InvalidOption(
            "hook_name", hook_name, f"a layer from 0 to {n_layers - 1}, which this model has"
        )
    return HookPoint(layers[layer], match[2] == "pre", layer)


def _module_output(model: nn.Module, path: str, n_layers: int, hook_name: str) -> HookPoint:
    modules = dict(model.named_modules())
    if hook_name not in modules or not hook_name:
        raise InvalidOption(
            "hook_name",
            hook_name,
            f"blocks.L.hook_resid_post, blocks.L.hook_resid_pre or a module path such as {path}.L,"
            f" with L from 0 to {n_layers - 1}",
        )
    inside = re.match(rf"{re.escape(path)}\.(\d+)(\.|$)", hook_name)
    return HookPoint(modules[hook_name], False, int(inside[1]) if inside else None)


def find_layers(model: nn.Module, n_layers: int) -> tuple[str, nn.ModuleList]:
    """(path, list) of the decoder layers: the first module list as long as the config says."""
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return path, module
    raise InvalidOption("name", type(model).__name__, "a model whose layers form a ModuleList")


def first_tensor(value: Any) -> Any:
    """The hidden states in what a module returns: itself, or the first of a tuple."""
    return value[0] if isinstance(value, tuple) else value


def with_first_tensor(value: Any, tensor: Any) -> Any:
    """`value` with its hidden states replaced."""
    return (tensor, *value[1:]) if isinstance(value, tuple) else tensor
