"""From the name of a place in a language model to the module where its activations appear.

Two kinds of names are understood:

- TransformerLens' names, `blocks.12.hook_resid_post`, whatever the model calls its layers:
  `hook_resid_pre`, `hook_resid_mid` and `hook_resid_post` are the residual stream before, inside
  and after a layer, `hook_attn_out` and `hook_mlp_out` what is added to it, `attn.hook_z` what the
  attention's output projection reads, of all heads side by side;
- any module path of the transformers model, `model.layers.12.mlp`: the output of that module, or
  with `.input` behind it its first input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from temporal_sae.activations.blocks import PLACES, find_layers, sites_of
from temporal_sae.errors import InvalidOption

Edit = Callable[[Tensor], Tensor]
LENS_NAME = re.compile(r"blocks\.(\d{1,9})\.([\w.]+)")
ALIASES = {"hook_z": "attn.hook_z"}
INPUT = ".input"
FIRST_INPUT = "hidden_states"  # the name of a module's first input
SUMS = ("hook_resid_mid", "hook_attn_out", "hook_mlp_out")  # by what is added to the stream
ROUNDINGS = 4  # that a sum of three may differ by, from element to element


@dataclass(frozen=True)
class HookPoint:
    """A side of a module.

    Args:
        name: as TransformerLens has it, where it has one; else the path.
        path: of the module, with `.input` for its input.
        module: the module.
        reads_input: its first input is read; else its output.
        is_stream: what it reads goes on beside it, too.
        layer: the layer that it belongs to, None outside of all.
        place: the name within the layer, where it has one.
        typed_path: the person named the module, so nothing is claimed of what it returns.
    """

    name: str
    path: str
    module: nn.Module
    reads_input: bool
    is_stream: bool
    layer: int | None
    place: str | None
    typed_path: bool


def find_hook_point(model: nn.Module, n_layers: int, hook_name: str) -> HookPoint:
    """Resolve `hook_name`.

    Raises:
        InvalidOption: no such layer, place or module; the message says what there is.
    """
    path, layers = find_layers(model, n_layers)
    match = LENS_NAME.fullmatch(hook_name)
    place = ALIASES.get(match[2], match[2]) if match else None
    if match is None or place not in PLACES:
        return _by_path(model, path, layers, hook_name)
    layer = int(match[1])
    if layer >= n_layers:
        raise InvalidOption(
            "hook_name", hook_name, f"a layer from 0 to {n_layers - 1}, which this model has"
        )
    if place not in sites_of(layers[layer]):
        raise InvalidOption("hook_name", hook_name, allowed_names(path, layers))
    return point_at(path, layers, layer, place)


def point_at(path: str, layers: nn.ModuleList, layer: int, place: str) -> HookPoint:
    """Return a place of a layer, by TransformerLens' name within it."""
    site = sites_of(layers[layer])[place]
    full = ".".join(filter(None, (path, str(layer), site.path)))
    return HookPoint(
        f"blocks.{layer}.{place}",
        full + INPUT * site.reads_input,
        layers[layer].get_submodule(site.path),
        site.reads_input,
        site.is_stream,
        layer,
        place,
        typed_path=False,
    )


def _by_path(model: nn.Module, path: str, layers: nn.ModuleList, hook_name: str) -> HookPoint:
    modules = dict(model.named_modules())
    reads_input = hook_name not in modules and hook_name.endswith(INPUT)
    module_path = hook_name.removesuffix(INPUT) if reads_input else hook_name
    if not module_path or module_path not in modules:
        raise InvalidOption("hook_name", hook_name, allowed_names(path, layers))
    module = modules[module_path]
    inside = re.match(rf"{re.escape(path)}\.(\d+)(\.|$)", module_path)
    layer = int(inside[1]) if inside else None
    for place in sites_of(layers[layer]) if layer is not None else ():
        point = point_at(path, layers, layer or 0, place)
        if point.module is module and point.reads_input == reads_input:
            return replace(point, typed_path=True)
    return HookPoint(hook_name, hook_name, module, reads_input, False, layer, None, typed_path=True)


def allowed_names(path: str, layers: nn.ModuleList) -> str:
    """Return what a place may be called in this model."""
    places = ", ".join(sites_of(layers[0]))
    return (
        f"blocks.L.PLACE with PLACE one of {places}, or a module path such as {path}.L or "
        f"{path}.L{INPUT}, with L from 0 to {len(layers) - 1}"
    )


def confirmed(
    point: HookPoint,
    model: nn.Module,
    n_layers: int,
    read: Callable[[Sequence[HookPoint]], list[Tensor]],
) -> HookPoint:
    """Return the point, once what its name claims of the residual stream is seen to be so.

    Modules of one name do different things: attention and MLP of GPT-NeoX read the same stream, so
    nothing lies between them, and Granite scales what it adds. A sum tells.

    Args:
        point: the place.
        model: the language model.
        n_layers: how many layers it has.
        read: gives the activations of a forward pass at several places.

    Raises:
        InvalidOption: it is not so, and the person did not name the module itself.
    """
    path, layers = find_layers(model, n_layers)
    if point.layer is None or point.place not in SUMS:
        return point
    there = sites_of(layers[point.layer])
    if "hook_resid_mid" not in there:  # every sum is normed, so the stream is none
        return point
    names = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
    points = [point_at(path, layers, point.layer, name) for name in names]
    before, middle, after, attention, mlp = read(points)
    if point.place == "hook_resid_mid":
        holds = _is_sum(middle, before, attention)
        why = "its attention and MLP read the same stream, or scale it, so nothing lies between"
    else:
        holds = _is_sum(after, before, attention, mlp)
        why = "what its attention and MLP return is not what is added to the residual stream"
    if holds:
        return point
    if point.typed_path:
        return replace(point, name=point.path, place=None, is_stream=False)
    allowed = f"another place: {why} (the module that the name would mean is {point.path})"
    raise InvalidOption("hook_name", point.name, allowed)


def _is_sum(total: Tensor, *parts: Tensor) -> bool:
    """Return whether parts make a total, but for rounding; large elements hide no small ones."""
    error = (sum(parts) - total).abs()
    unit = ROUNDINGS * torch.finfo(total.dtype).eps
    return bool((error <= unit * sum(part.abs() for part in parts)).all())


@contextmanager
def edited(edits: Mapping[HookPoint, Edit]) -> Iterator[None]:
    """Pass the activations at each of some points through its edit while the context is open."""
    with ExitStack() as stack:
        for point, edit in edits.items():
            stack.callback(_register(point, edit).remove)
        yield


def _register(point: HookPoint, edit: Edit) -> Any:
    def on_input(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden: Any = args[0] if args else kwargs.get(FIRST_INPUT)
        new = edit(hidden)
        if point.is_stream and new is not hidden:
            hidden.copy_(new)  # in place: the residual stream beside the module is this tensor
        elif args:
            args = (new, *args[1:])
        elif FIRST_INPUT in kwargs:
            kwargs = {**kwargs, FIRST_INPUT: new}
        return args, kwargs

    def on_output(_: Any, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    if point.reads_input:
        return point.module.register_forward_pre_hook(on_input, with_kwargs=True)
    return point.module.register_forward_hook(on_output)
