"""A transformers causal language model, read and edited at one place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from inspect import signature
from threading import RLock
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from temporal_sae.activations.behind_hook import (
    can_be_kept,
    continues,
    kept,
    layers_before,
    skipped,
)
from temporal_sae.activations.blocks import find_layers
from temporal_sae.activations.hooks import (
    Edit,
    HookPoint,
    confirmed,
    edited,
    find_hook_point,
)
from temporal_sae.activations.loading import Loaded, LoadOptions
from temporal_sae.activations.pretrained import load_pretrained
from temporal_sae.activations.weights import Placement
from temporal_sae.errors import InvalidOption
from temporal_sae.registry import component

PROBED = 8  # tokens that are read to see what a place gives


class _Reached(Exception):
    """The forward pass has come as far as it is needed."""


@component("model")
class LanguageModel:
    """A causal language model and the place in it that an SAE reads.

    Args:
        name: `tiny` (bundled), a local folder, or a name on the Hugging Face hub.
        hook_name: TransformerLens' name of a place, such as `blocks.L.hook_resid_post`, or a
            module path; it reads back as the former where the place has one.
        dtype: of the weights and of the activations: float32, bfloat16 or float16.
        revision: branch, tag or commit on the hub.
        device: where the model runs.
        attn_implementation: eager, sdpa, flex_attention or flash_attention_2; None: the best that
            transformers knows for the model.
        device_map: another device than `device`, such as cuda:1; `auto` spreads a large model over
            several, which takes accelerate.
        quantization: 8bit or 4bit, which takes bitsandbytes and a CUDA device.
        local_files_only: the hub is not asked, only what is kept of it on this machine.

    Raises:
        InvalidOption: the model cannot be loaded whole, or has no such place.
    """

    why_no_loss: str | None = None  # what keeps its loss from being measured, in words

    def __init__(
        self,
        name: str,
        hook_name: str,
        dtype: str = "float32",
        revision: str | None = None,
        device: str | torch.device = "cpu",
        attn_implementation: str | None = None,
        device_map: str | None = None,
        quantization: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        self.name, self.revision, self.dtype = name, revision, dtype
        check_hook_name(hook_name)
        options = LoadOptions(
            dtype=dtype,
            revision=revision,
            attn_implementation=attn_implementation,
            device_map=device_map,
            quantization=quantization,
            local_files_only=local_files_only,
            device=torch.device(device),
        )
        loaded, self.tokenizer = load_pretrained(name, options)
        self.model, self.why_no_loss = loaded.model, loaded.why_no_loss
        self.n_layers = int(self.model.config.get_text_config().num_hidden_layers)
        self._takes_cache = "use_cache" in signature(self.model.forward).parameters
        self._placement = self._place(loaded, options)
        self._points: dict[str, HookPoint] = {}
        self._continues: dict[str, bool] = {}  # by place: whether a pass may begin behind it
        self._one_pass = RLock()  # hooks on the modules are in the way of every other pass
        self._look_at(hook_name)

    def at(self, hook_name: str) -> LanguageModel:
        """Return the same model, with the same weights in memory, read at another place.

        Raises:
            InvalidOption: the model has no such place.
        """
        check_hook_name(hook_name)
        other = copy.copy(self)
        other._look_at(hook_name)
        return other

    def _look_at(self, hook_name: str) -> None:
        """Set the place that is read, and what is known of it."""
        self.point = self._find(hook_name)
        self.hook_name = self.point.name
        self.d_in = self._read(self._probe(), [self.point])[0].shape[-1]
        self._before_hook = self._placement.n_bytes if self._placement else self.nbytes()

    def _place(self, loaded: Loaded, options: LoadOptions) -> Placement | None:
        """Put the model where it runs, or let each part come when it is reached."""
        self.model.eval().requires_grad_(False)
        self.device = options.place
        if loaded.mapped:
            _, layers = find_layers(self.model, self.n_layers)
            return Placement(self.model, layers, self.device, options.torch_dtype)
        if options.placed_by_transformers:
            self.device = self.model.get_input_embeddings().weight.device
        else:
            self.model.to(self.device)
        return None

    def _find(self, hook_name: str) -> HookPoint:
        if hook_name not in self._points:
            point = find_hook_point(self.model, self.n_layers, hook_name)
            read = partial(self._read, self._probe())
            self._points[hook_name] = confirmed(point, self.model, self.n_layers, read)
        return self._points[hook_name]

    def _probe(self) -> Tensor:
        vocab = self.model.get_input_embeddings().weight.shape[0]
        return torch.arange(PROBED, device=self.device)[None] % vocab

    @property
    def layer(self) -> int | None:
        """The layer that the hook belongs to, or None where it is outside all layers."""
        return self.point.layer

    @torch.no_grad()
    def activations(
        self, tokens: Int[Tensor, "sequences context"]
    ) -> Float[Tensor, "sequences context d_in"]:
        """Activations at the hook; the layers behind it do not run."""
        return self._read(tokens, [self.point])[0]

    def activations_at(
        self, tokens: Int[Tensor, "sequences context"], hook_names: Sequence[str]
    ) -> dict[str, Float[Tensor, "sequences context width"]]:
        """Activations at several places, by the names given, from one forward pass.

        What is behind the last of them does not run.
        """
        points = [self._find(name) for name in hook_names]
        return dict(zip(hook_names, self._read(tokens, points), strict=True))

    @torch.no_grad()
    def _read(self, tokens: Tensor, points: Sequence[HookPoint]) -> list[Tensor]:
        captured: dict[HookPoint, Tensor] = {}
        wanted = set(points)

        def capture(point: HookPoint, hidden: Tensor) -> Tensor:
            captured[point] = hidden
            if len(captured) == len(wanted):
                raise _Reached
            if isinstance(hidden, Tensor):  # what follows may add to it in place
                captured[point] = hidden.clone()
            return hidden

        edits = {point: partial(capture, point) for point in wanted}
        with self._one_pass, edited(edits), suppress(_Reached):
            self._forward(tokens)
        for point in points:
            hidden = captured.get(point)
            if not isinstance(hidden, Tensor) or hidden.ndim != 3:
                raise InvalidOption(
                    "hook_name",
                    point.name,
                    "a module that the forward pass runs and that returns "
                    "[sequences, context, width]",
                )
        return [captured[point].to(self.device) for point in points]

    def _forward(self, tokens: Tensor) -> Any:
        options = {"use_cache": False} if self._takes_cache else {}
        return self.model(input_ids=tokens.to(self.device), **options)

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, "sequences context"], edit: Edit | None = None
    ) -> Float[Tensor, "sequences context vocab"]:
        """Next-token logits, with the activations at the hook replaced by `edit` of them.

        Raises:
            InvalidOption: the model does not predict the next token.
        """
        if self.why_no_loss:
            allowed = f"a causal language model ({self.why_no_loss})"
            raise InvalidOption("name", self.name, allowed)

        def elsewhere(hidden: Tensor) -> Tensor:
            """Return the edit on the device of this model, wherever the layer is."""
            assert edit is not None
            return edit(hidden.to(self.device)).to(hidden.device)

        with self._one_pass, edited({self.point: elsewhere} if edit else {}):
            logits: Tensor = self._forward(tokens).logits
        return logits.to(self.device)

    @torch.no_grad()
    def plain_pass(
        self, tokens: Int[Tensor, "sequences context"]
    ) -> tuple[Float[Tensor, "sequences context vocab"], Callable[[Edit], Tensor]]:
        """Run the model untouched, and keep what it takes to run it again from the hook on.

        Returns:
            The logits, and a function that returns those with an edit at the hook, as `logits`
            does, but runs only the layer of the hook and those behind it, where the model can. The
            edit returns a tensor of its own. Until the function is let go, it holds the stream
            before the hook.
        """
        layers = self._layers_before() if self._can_continue() else ()
        with self._one_pass, kept(layers) as outputs:
            logits = self.logits(tokens)
        if not can_be_kept(outputs):
            return logits, partial(self.logits, tokens)

        def behind(edit: Edit) -> Tensor:
            with self._one_pass, skipped(layers, outputs[0]):
                return self.logits(tokens, edit)

        return logits, behind

    def _layers_before(self) -> Sequence[nn.Module]:
        _, layers = find_layers(self.model, self.n_layers)
        return layers_before(self.point, list(layers))

    def _can_continue(self) -> bool:
        if self.point.path not in self._continues:
            whole = partial(self.logits, self._probe())
            with self._one_pass:
                self._continues[self.point.path] = continues(whole, self._layers_before())
        return self._continues[self.point.path]

    def bytes_before_hook(self) -> int:
        """Bytes of the weights that were in memory once the place had been read.

        Those that are only needed behind it may wait in their files.
        """
        return self._before_hook

    def forward_bytes(self, n_tokens: int) -> int:
        """Return about how many bytes a forward pass takes beside the weights.

        At its widest, in the MLP of a layer: two products as wide as that, their combination, and
        some copies of the residual stream. Attention in blocks takes less.
        """
        config = self.model.config.get_text_config()
        hidden = int(config.hidden_size)
        widest = getattr(config, "intermediate_size", None) or 4 * hidden
        n_values = 3 * int(widest) + 6 * hidden
        return n_tokens * n_values * next(self.model.parameters()).itemsize

    def nbytes(self) -> int:
        """Bytes of all weights, wherever they are now."""
        if self._placement is None:
            return sum(p.nbytes for p in self.model.parameters())
        of = self._placement.dtype_of
        return sum(p.numel() * of(p).itemsize for p in self.model.parameters())


def check_hook_name(value: Any) -> None:
    """Raise InvalidOption unless `value` could be the name of a place."""
    if not isinstance(value, str):
        raise InvalidOption("hook_name", value, "a name such as blocks.3.hook_resid_post")
