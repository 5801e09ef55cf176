"""A second forward pass of a language model that runs only what is behind the hook.

The first pass keeps what the last layer before the hook returns. In the second the layers before
the hook return that at once, so masks, rotary tables and all else between the layers stay the
model's own, whatever the architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from temporal_sae.activations.hooks import Edit, HookPoint

# Gives the logits of an untouched pass, or of one with an edit at the hook.
Logits = Callable[[Edit | None], Tensor]


def layers_before(point: HookPoint, layers: Sequence[nn.Module]) -> Sequence[nn.Module]:
    """Return the layers that give the same whatever is done at a place; none if it is in no layer.

    The layer whose output is the place is one of them: its output is edited, not its work.
    """
    if point.layer is None:
        return ()
    is_output = point.module is layers[point.layer] and not point.reads_input
    return layers[: point.layer + is_output]


@contextmanager
def kept(layers: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """Put what the last of some layers returns into the list while the context is open."""
    found: list[Any] = []
    if not layers:
        yield found
        return
    # Before the hooks of edits, so that what they return is not kept.
    handle = layers[-1].register_forward_hook(lambda *args: found.append(args[-1]), prepend=True)
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def skipped(layers: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Let each of some layers return `output` at once; hooks on the layers themselves still run."""
    own = [vars(layer).get("forward") for layer in layers]  # accelerate puts one into each
    try:
        for layer in layers:
            layer.forward = lambda *_, **__: output
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            if forward is None:
                vars(layer).pop("forward", None)
            else:
                layer.forward = forward


def can_be_kept(outputs: Sequence[Any]) -> bool:
    """Return whether a layer has run once and given the stream alone, or beside it only `None`."""
    if len(outputs) != 1:
        return False
    stream, *rest = outputs[0] if isinstance(outputs[0], tuple) else outputs
    return isinstance(stream, Tensor) and all(part is None for part in rest)


def continues(whole: Logits, layers: Sequence[nn.Module]) -> bool:
    """Return whether a pass without some layers gives, to the bit, what the whole one gives.

    It does not where later layers need more of the earlier ones than the stream, such as their keys
    and values.

    Args:
        whole: gives the logits on a few tokens.
        layers: those before the hook.
    """
    if not layers:
        return False
    with kept(layers) as outputs:
        plain = whole(None)
    if not can_be_kept(outputs):
        return False
    # The second edit changes nothing, so it tells whether the first pass has spoilt what was kept.
    for edit, expected in ((torch.zeros_like, whole(torch.zeros_like)), (torch.clone, plain)):
        try:
            with skipped(layers, outputs[0]):
                found = whole(edit)
        except Exception:  # noqa: BLE001 - of a model that does without none of its layers
            return False
        if not torch.equal(found, expected):
            return False
    return True
