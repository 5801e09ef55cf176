"""Whether a tokenizer's vocabulary suits first-letter absorption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from temporal_sae.errors import InvalidOption, RunError

Problem = InvalidOption | RunError

SPACES = "▁Ġ "  # how vocabularies write a leading space
PER_LETTER = 5  # a fifth of the words is for testing
WORDS = 200  # ten of the tested fifth are examples in each prompt
TEMPLATE = "{word} has the first letter:"
POSITION = -6


def vocabulary_problems(tokenizer: Any, options: Mapping[str, Any]) -> Iterator[Problem]:
    """Reasons why SAEBench's absorption could not ask its questions.

    Its words are the tokens of letters alone, its prompts `WORD has the first letter: X`, and it
    reads the activation at one fixed position from the end, where the word has to be.

    Args:
        tokenizer: of transformers.
        options: of the evaluation; `prompt_template` and `prompt_token_pos` matter.
    """
    template = str(options.get("prompt_template", TEMPLATE))
    yield from answer_problems(tokenizer, template)
    yield from position_problems(tokenizer, template, options.get("prompt_token_pos", POSITION))
    yield from word_problems(tokenizer)


def answer_problems(tokenizer: Any, template: str) -> Iterator[RunError]:
    """All answers have to be one token, or the prompts differ in length."""
    prompt = template.format(word="a")
    length = count_tokens(tokenizer, prompt)
    split = [
        letter
        for letter in ascii_uppercase
        if count_tokens(tokenizer, f"{prompt} {letter}") != length + 1
    ]
    if split:
        yield RunError(
            "absorption: the vocabulary has no single token for the answers "
            f"{', '.join(repr(f' {letter}') for letter in split)}; use a model whose vocabulary "
            "has all 26 letters, or leave absorption out of eval.evals"
        )


def position_problems(tokenizer: Any, template: str, position: int) -> Iterator[InvalidOption]:
    """The word has to be where the activation is read."""
    behind = count_tokens(tokenizer, template.format(word="a")) - count_tokens(tokenizer, "a")
    if position != -behind - 1:
        yield InvalidOption(
            "absorption.prompt_token_pos",
            position,
            f"{-behind - 1}, where this tokenizer puts the word of {template!r}",
        )


def word_problems(tokenizer: Any) -> Iterator[RunError]:
    """Each letter needs words that are one token."""
    words = [token.lstrip(SPACES) for token in tokenizer.get_vocab()]
    firsts = Counter(word[0].lower() for word in words if word.isascii() and word.isalpha())
    rare = [letter for letter in ascii_lowercase if firsts[letter] < PER_LETTER]
    if rare:
        yield RunError(
            "absorption: the vocabulary has too few alphabetic tokens: fewer than "
            f"{PER_LETTER} begin with {', '.join(rare)}"
        )
    elif firsts.total() < WORDS:
        yield RunError(
            f"absorption: the vocabulary has {firsts.total()} alphabetic tokens, and at least "
            f"{WORDS} are needed"
        )


def count_tokens(tokenizer: Any, text: str) -> int:
    """Tokens of `text` without special ones."""
    return len(tokenizer.encode(text, add_special_tokens=False))
