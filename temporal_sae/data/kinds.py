"""Kinds of tokens, so that training can leave some of them out.

The fourth column of what `TokenSequences.read` returns has a bit for each kind that a token is of:
a turn of a user in a chat may hold special tokens. A special token's name that is written in a text
is text, as the tokenizer of a language model is told.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from temporal_sae.errors import InvalidOption

ABOUT = {
    "bos": "the token that begins a sequence",
    "separators": "end-of-text tokens, which stand between documents",
    "padding": "padding, of text that was tokenized before",
    "special": "every special token, those above included",
    "template": "what a chat template writes around messages",
    "system": "messages of the system",
    "user": "messages of the user",
    "assistant": "messages of the assistant",
    "tool": "messages of tools",
}
KINDS = {name: 1 << n for n, name in enumerate(ABOUT)}
USUAL = ("bos", "separators")  # the kinds that training leaves out unless told otherwise


def check_kinds(option: str, value: Any) -> tuple[str, ...]:
    """Return `value` if it is a list of kinds, which may be empty, else raise InvalidOption."""
    is_list = isinstance(value, Collection) and not isinstance(value, (str, dict))
    if not is_list or not all(isinstance(name, str) and name in KINDS for name in value):
        raise InvalidOption(option, value, f"a list of some of {', '.join(KINDS)}")
    return tuple(value)


def are_of(kinds: Int[Tensor, "*n"], names: Collection[str]) -> Bool[Tensor, "*n"]:
    """Mark the tokens that are of any of the named kinds."""
    return (kinds & sum(KINDS[name] for name in set(names))) != 0


class SpecialTokens:
    """Kinds of tokens that a tokenizer tells by their numbers.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder.items()
        special = {*tokenizer.all_special_ids, *(n for n, token in added if token.special)}
        by_kind = {
            "bos": {tokenizer.bos_token_id},
            "separators": {tokenizer.eos_token_id},
            "padding": {tokenizer.pad_token_id},
            "special": special,
        }
        self._numbers = {
            KINDS[name]: torch.tensor(sorted(numbers - {None}), dtype=torch.int32)
            for name, numbers in by_kind.items()
        }

    def kinds(self, ids: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Return the bits of each token, int32."""
        bits = torch.zeros_like(ids, dtype=torch.int32)
        for bit, numbers in self._numbers.items():
            bits |= torch.isin(ids, numbers).int() * bit
        return bits
