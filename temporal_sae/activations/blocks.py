"""The layers of a language model, and the places inside of one.

Everything is found in the modules themselves. A table has the names that transformers gives the few
parts that matter, and in which order of preference; nobody lists models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from temporal_sae.errors import InvalidOption

ATTENTION = ("self_attn", "attn", "attention", "self_attention")
MLP = ("mlp", "feed_forward", "ffn")
PROJECTION = ("o_proj", "c_proj", "out_proj", "dense", "wo", "Wo")
# The norm of what the MLP reads. Where its output is normed, too, the second name below means
# another norm, so the order matters.
BEFORE_MLP = ("pre_feedforward_layernorm", "ln_2", "post_attention_layernorm", "mlp_norm")
AFTER_MLP = "post_feedforward_layernorm"
AFTER_ATTENTION = "post_attention_layernorm"
PLACES = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "attn.hook_z",
)


@dataclass(frozen=True)
class Site:
    """One side of a module of a layer.

    Args:
        path: from the layer to the module; empty for the layer itself.
        reads_input: its first input; else its output.
        is_stream: what it reads goes on beside it, too, as the residual stream does.
    """

    path: str
    reads_input: bool = False
    is_stream: bool = False


def find_layers(model: Any, n_layers: int) -> tuple[str, nn.ModuleList]:
    """Return path and list of the layers: as many as the config says, nearest to the embedding.

    A vision tower may have as many layers; the embedding of the tokens is not in there.
    """
    paths = {module: path for path, module in model.named_modules()}
    embedding = paths.get(model.get_input_embeddings(), "")
    while True:
        embedding, _, _ = embedding.rpartition(".")
        for path, module in model.get_submodule(embedding).named_modules(prefix=embedding):
            if isinstance(module, nn.ModuleList) and len(module) == n_layers:
                return path, module
        if not embedding:
            raise InvalidOption(
                "name", type(model).__name__, "a model whose layers form a ModuleList"
            )


def sites_of(layer: nn.Module) -> dict[str, Site]:
    """Return the places of a layer under TransformerLens' names, as far as it has them."""
    found = {"hook_resid_pre": Site("", reads_input=True), "hook_resid_post": Site("")}
    if attention := _first(layer, ATTENTION):
        if (post_norm := _first(layer, (f"{attention}.output.dense",))) is not None:
            # An encoder after BERT: each sum is normed, and what is added comes from `dense`.
            found["hook_attn_out"] = Site(post_norm)
            found["attn.hook_z"] = Site(post_norm, reads_input=True)
            if mlp := _first(layer, ("output.dense",)):
                found["hook_mlp_out"] = Site(mlp)
            return found
        normed = _has(layer, AFTER_MLP) and _has(layer, AFTER_ATTENTION)
        found["hook_attn_out"] = Site(AFTER_ATTENTION if normed else attention)
        if projection := _first(layer, [f"{attention}.{name}" for name in PROJECTION]):
            found["attn.hook_z"] = Site(projection, reads_input=True)
    if mlp := _first(layer, MLP):
        found["hook_mlp_out"] = Site(AFTER_MLP if _has(layer, AFTER_MLP) else mlp)
        if attention:
            norms = BEFORE_MLP[:1] if _has(layer, AFTER_MLP) else BEFORE_MLP
            found["hook_resid_mid"] = Site(_first(layer, norms) or mlp, True, is_stream=True)
    return {place: found[place] for place in PLACES if place in found}


def _has(layer: nn.Module, path: str) -> bool:
    return any(path == found for found, _ in layer.named_modules())


def _first(layer: nn.Module, paths: tuple[str, ...] | list[str]) -> str | None:
    """Return the first of these paths that leads to a module."""
    there = {path for path, _ in layer.named_modules()}
    return next((path for path in paths if path in there), None)
