"""A transformers causal language model, read and edited at one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.activations.hooks import find_hook_point, first_tensor, with_first_tensor
from temporal_sae.activations.pretrained import load_pretrained
from temporal_sae.activations.shared import shared_activations
from temporal_sae.errors import InvalidOption, check_choice, check_words
from temporal_sae.registry import component

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Edit = Callable[[Tensor], Tensor]


class _Reached(Exception):
    """The forward pass has come as far as it is needed."""


@component("model")
class LanguageModel:
    """A causal language model and the place in it that an SAE reads.

    Args:
        name: `tiny` (bundled), a local folder, or a name on the Hugging Face hub.
        hook_name: `blocks.L.hook_resid_post`, `blocks.L.hook_resid_pre`, or a module path.
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
        self.name, self.hook_name, self.dtype = name, hook_name, dtype
        check_choice("dtype", dtype, tuple(DTYPES))
        if not isinstance(hook_name, str):
            raise InvalidOption("hook_name", hook_name, "a name such as blocks.3.hook_resid_post")
        check_words("revision", revision, null=True)
        self.device = torch.device(device)
        self.model, self.tokenizer = load_pretrained(name, DTYPES[dtype], revision)
        self.model.to(self.device).eval().requires_grad_(False)
        self.n_layers = int(self.model.config.get_text_config().num_hidden_layers)
        self.point = find_hook_point(self.model, self.n_layers, hook_name)
        self._shared = shared_activations(f"{name} {revision} {hook_name} {dtype}", self.device)
        start = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        self.d_in = self.activations(start).shape[-1]

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
        captured: list[Tensor] = []

        def capture(hidden: Tensor) -> Tensor:
            captured.append(hidden)
            raise _Reached

        with self._edited(capture):
            try:
                self.model(input_ids=tokens.to(self.device), use_cache=False)
            except _Reached:
                if isinstance(captured[0], Tensor) and captured[0].ndim == 3:
                    return captured[0]
        raise InvalidOption(
            "hook_name",
            self.hook_name,
            "a module that the forward pass runs and that returns [sequences, context, width]",
        )

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, "sequences context"], edit: Edit | None = None
    ) -> Float[Tensor, "sequences context vocab"]:
        """Next-token logits, with the activations at the hook replaced by `edit` of them."""
        if edit is None and self._shared is not None:
            return self._shared.find_or_compute(tokens, lambda: self._logits(tokens), "logits")
        return self._logits(tokens, edit)

    def _logits(self, tokens: Tensor, edit: Edit | None = None) -> Tensor:
        with self._edited(edit or (lambda hidden: hidden)):
            logits: Tensor = self.model(input_ids=tokens.to(self.device), use_cache=False).logits
        return logits

    @contextmanager
    def _edited(self, edit: Edit) -> Iterator[None]:
        """Pass the activations at the hook through `edit` while the context is open."""

        def on_input(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (edit(args[0]), *args[1:])

        def on_output(_: Any, args: Any, output: Any) -> Any:
            return with_first_tensor(output, edit(first_tensor(output)))

        module = self.point.module
        handle = (
            module.register_forward_pre_hook(on_input)
            if self.point.reads_input
            else module.register_forward_hook(on_output)
        )
        try:
            yield
        finally:
            handle.remove()

    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(p.nbytes for p in self.model.parameters())
