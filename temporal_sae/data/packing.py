"""Documents → token windows of one length, without padding.

Documents are joined by the tokenizer's end-of-text token and cut every `context_size` tokens (one
fewer where each window begins with BOS). Nothing is dropped inside a pass: what does not fill a
window waits for the next document. The price is that a window may hold pieces of two documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from temporal_sae.data.sources import Split, TextSource
from temporal_sae.errors import InvalidOption, RunError, check_int


class TokenWindows(Iterator[Tensor]):
    """An endless iterator of token windows that can be stopped and continued anywhere.

    Args:
        source: where the documents come from.
        tokenizer: a transformers tokenizer.
        context_size: tokens a window, BOS included.
        split: `train` or `held_out`.
        seed: fixes the order of the documents in every pass.
        prepend_bos: begin every window with the tokenizer's BOS token.
        repeat: start over when the text is used up; otherwise iteration ends there.

    Raises:
        InvalidOption: the tokenizer has no BOS token but `prepend_bos` is set.
        RunError: one whole pass does not fill a single window.
    """

    def __init__(
        self,
        source: TextSource,
        tokenizer: Any,
        context_size: int,
        split: Split = "train",
        seed: int = 0,
        prepend_bos: bool = True,
        repeat: bool = True,
    ) -> None:
        self.context_size = check_int("context_size", context_size, 2)
        if prepend_bos and tokenizer.bos_token_id is None:
            raise InvalidOption("prepend_bos", True, "false, as this tokenizer has no BOS token")
        self.source, self.tokenizer, self.split = source, tokenizer, split
        self.seed, self.prepend_bos, self.repeat = seed, prepend_bos, repeat
        self.epoch, self.cursor = 0, 0
        self._tokens: list[int] = []
        self._position = 0
        self._windows_this_epoch = 0
        self._documents = source.documents(split, seed, self.epoch)

    def __next__(self) -> Tensor:
        """The next window, int64 [context_size]."""
        body = self.context_size - int(self.prepend_bos)
        while len(self._tokens) - self._position < body:
            self._read_document()
        window = self._tokens[self._position : self._position + body]
        self._position += body
        self._windows_this_epoch += 1
        bos = [self.tokenizer.bos_token_id] if self.prepend_bos else []
        return torch.tensor(bos + window)

    def _read_document(self) -> None:
        try:
            self.cursor, text = next(self._documents)
        except StopIteration:
            self._start_next_epoch()
            return
        tokens = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        self._tokens = self._waiting() + tokens + ([] if end is None else [end])
        self._position = 0

    def _waiting(self) -> list[int]:
        return self._tokens[self._position :]

    def _start_next_epoch(self) -> None:
        if not self._windows_this_epoch:
            raise RunError(
                f"the {self.split} text holds {len(self._waiting())} tokens, fewer than one window "
                f"of activations.context_size={self.context_size}"
            )
        if not self.repeat:
            raise StopIteration
        self.epoch, self.cursor, self._windows_this_epoch = self.epoch + 1, 0, 0
        self._documents = self.source.documents(self.split, self.seed, self.epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the iterator stands, exactly."""
        return {
            "epoch": self.epoch,
            "cursor": self.cursor,
            "windows_this_epoch": self._windows_this_epoch,
            "waiting": torch.tensor(self._waiting(), dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`: the same windows follow as would have followed there."""
        self.epoch, self.cursor = int(state["epoch"]), int(state["cursor"])
        self._windows_this_epoch = int(state["windows_this_epoch"])
        self._tokens, self._position = state["waiting"].tolist(), 0
        self._documents = self.source.documents(self.split, self.seed, self.epoch, self.cursor)
