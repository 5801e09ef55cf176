"""A transformers causal language model, read and edited at one place."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.activations.hooks import (
    Edit,
    HookPoint,
    confirmed,
    edited,
    find_hook_point,
)
from temporal_sae.activations.pretrained import load_pretrained
from temporal_sae.activations.shared import shared_activations
from temporal_sae.errors import InvalidOption, check_choice, check_words
from temporal_sae.registry import component

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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
    ) -> None:
        self.name, self.dtype = name, dtype
        check_choice("dtype", dtype, tuple(DTYPES))
        if not isinstance(hook_name, str):
            raise InvalidOption("hook_name", hook_name, "a name such as blocks.3.hook_resid_post")
        check_words("revision", revision, null=True)
        self.device = torch.device(device)
        self.model, self.tokenizer = load_pretrained(name, DTYPES[dtype], revision)
        self.model.to(self.device).eval().requires_grad_(False)
        self.n_layers = int(self.model.config.get_text_config().num_hidden_layers)
        self._points: dict[str, HookPoint] = {}
        self.point = self._find(hook_name)
        self.hook_name = self.point.name
        self._shared = shared_activations(
            f"{name} {revision} {self.hook_name} {dtype}", self.device
        )
        self.d_in = self._read(self._probe(), [self.point])[0].shape[-1]

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
        if self._shared is not None:
            return self._shared.find_or_compute(tokens, lambda: self._compute(tokens))
        return self._compute(tokens)

    def _compute(self, tokens: Tensor) -> Tensor:
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
            return hidden

        with edited({point: partial(capture, point) for point in wanted}), suppress(_Reached):
            self.model(input_ids=tokens.to(self.device), use_cache=False)
        for point in points:
            hidden = captured.get(point)
            if not isinstance(hidden, Tensor) or hidden.ndim != 3:
                raise InvalidOption(
                    "hook_name",
                    point.name,
                    "a module that the forward pass runs and that returns "
                    "[sequences, context, width]",
                )
        return [captured[point] for point in points]

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, "sequences context"], edit: Edit | None = None
    ) -> Float[Tensor, "sequences context vocab"]:
        """Next-token logits, with the activations at the hook replaced by `edit` of them."""
        if edit is None and self._shared is not None:
            return self._shared.find_or_compute(tokens, lambda: self._logits(tokens), "logits")
        return self._logits(tokens, edit)

    def _logits(self, tokens: Tensor, edit: Edit | None = None) -> Tensor:
        with edited({self.point: edit} if edit else {}):
            logits: Tensor = self.model(input_ids=tokens.to(self.device), use_cache=False).logits
        return logits

    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(p.nbytes for p in self.model.parameters())
