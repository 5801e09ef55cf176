"""Identifier words of a tokenizer, each a single token, and prompts that ask for a first letter.

As in SAEBench's absorption evaluation, words are the alphabetic entries of the vocabulary, with and
without a leading space, and every prompt shows some other words with their first letters before
the word in question. A prompt ends with the word itself, where the activations are read: what came
after it could not change them, because attention looks back only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from temporal_sae.errors import InvalidOption, RunError

WORD, LETTER = "{word}", "{letter}"
ALPHABETIC = re.compile(r" ?[A-Za-z]+")
MIN_WORDS = 200  # fewer leave most letters without test words


@dataclass(frozen=True)
class Words:
    """Words in alphabetical order.

    Attributes:
        texts: as the tokenizer decodes them, some with a leading space.
        tokens: int [n], the token of each.
        letters: int [n], the first letter of each, 0 for a to 25 for z, whatever its case.
    """

    texts: tuple[str, ...]
    tokens: NDArray[np.int64]
    letters: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: NDArray[np.int64]) -> Words:
        """Some of them."""
        texts = tuple(self.texts[i] for i in indices)
        return Words(texts, self.tokens[indices], self.letters[indices])


class Template:
    """A line that tells a word's first letter, in tokens.

    Args:
        tokenizer: of transformers.
        template: has `{word}` once and `{letter}` (a capital) once behind it; begins with what
            separates lines.

    Raises:
        InvalidOption: the template has not these parts.
        RunError: some letter is not a single token in it, so that lines would differ in length.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        before, found, after = template.partition(WORD)
        if not found or WORD in after or LETTER in before or after.count(LETTER) != 1:
            raise InvalidOption("template", template, f"a line with one {WORD}, then one {LETTER}")
        self._tokenizer, self._before, self._after = tokenizer, before, after
        self.before = self._encode([before])[0] if before else []
        self.after = self._encode([after.replace(LETTER, c.upper()) for c in ascii_lowercase])
        shortest = min(map(len, self.after))
        split = [
            c for c, ids in zip(ascii_lowercase, self.after, strict=True) if len(ids) > shortest
        ]
        if split:
            raise RunError(
                "absorption needs every letter as a single token, and with the template "
                f"{template!r} this vocabulary splits {', '.join(split).upper()}"
            )

    def _encode(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def single_tokens(self, texts: list[str], tokens: list[int]) -> list[bool]:
        """Return whether each text, set into the template, is read as its own single token."""
        line = self._after.replace(LETTER, "A")
        expected = [[*self.before, token, *self.after[0]] for token in tokens]
        read = self._encode([self._before + text + line for text in texts])
        return [a == b for a, b in zip(read, expected, strict=True)]


def find_words(tokenizer: Any, template: Template) -> Words:
    """Return all alphabetic entries of the vocabulary that stay one token in the template."""
    found: dict[str, int] = {}
    for entry, token in tokenizer.get_vocab().items():
        text = decode(tokenizer, entry)
        if ALPHABETIC.fullmatch(text):
            found[text] = min(token, found.get(text, token))
    texts = sorted(found)
    single = template.single_tokens(texts, [found[t] for t in texts]) if texts else []
    kept = [text for text, is_single in zip(texts, single, strict=True) if is_single]
    letters = [ascii_lowercase.index(text.strip()[0].lower()) for text in kept]
    return Words(
        tuple(kept),
        np.array([found[t] for t in kept], dtype=np.int64),
        np.array(letters, dtype=np.int64),
    )


def decode(tokenizer: Any, entry: str) -> str:
    """Return the text of one entry of the vocabulary, with its leading space."""
    text: str = tokenizer.convert_tokens_to_string([entry])
    # Some tokenizers drop the space that this mark stands for when nothing is before it.
    return f" {text}" if entry.startswith("▁") and not text.startswith(" ") else text


def check_words(tokenizer: Any, template: str, min_words: int = MIN_WORDS) -> Words:
    """Return the words of a vocabulary on which absorption can be measured.

    Raises:
        InvalidOption: the template has not its parts.
        RunError: there are too few words, or some letter is not a single token.
    """
    words = find_words(tokenizer, Template(tokenizer, template))
    if len(words) < min_words:
        raise RunError(
            f"absorption needs at least {min_words} alphabetic words that are single tokens in the "
            f"template {template!r}, and this vocabulary has {len(words)}"
        )
    return words


def split_words(
    words: Words, test_share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of training and of test words; every letter with two words or more is in both.

    Letters with a single word are in neither.
    """
    rng = np.random.default_rng(seed)
    parts: tuple[list[int], list[int]] = ([], [])
    for letter in np.unique(words.letters):
        own = rng.permutation(np.flatnonzero(words.letters == letter))
        if len(own) >= 2:
            n_test = min(max(1, round(test_share * len(own))), len(own) - 1)
            parts[1].extend(own[:n_test])
            parts[0].extend(own[n_test:])
    return np.sort(np.array(parts[0], dtype=np.int64)), np.sort(np.array(parts[1], dtype=np.int64))


def concepts_of(
    words: Words, train: NDArray[np.int64], test: NDArray[np.int64]
) -> tuple[list[str], Bool[Tensor, "words concepts"]]:
    """Return the concepts of words: each first letter, a leading space, a leading capital.

    Concepts that some but not all training words and some but not all test words have; their names
    (`a` to `z`, `space`, `capital`) and which word has which.
    """
    columns = {name: words.letters == n for n, name in enumerate(ascii_lowercase)}
    columns["space"] = np.array([text.startswith(" ") for text in words.texts])
    columns["capital"] = np.array([text.strip()[0].isupper() for text in words.texts])
    varied = {
        name: has
        for name, has in columns.items()
        if all(own.any() and not own.all() for own in (has[train], has[test]))
    }
    return list(varied), torch.from_numpy(np.stack(list(varied.values()), axis=1))


def make_prompts(
    template: Template,
    words: Words,
    examples: Words,
    n_examples: int,
    seed: int,
    bos: int | None = None,
) -> Int[Tensor, "words positions"]:
    """Return one prompt a word: `n_examples` example lines, then the word, which is the last token.

    Args:
        template: of every line.
        words: asked for, in the order of the rows.
        examples: the examples are drawn from these, for each word anew, never the word itself.
        n_examples: lines before the word.
        seed: fixes the examples.
        bos: is put in front.

    Raises:
        RunError: there are not enough examples.
    """
    if len(examples) <= n_examples:
        raise RunError(f"absorption: {n_examples} examples are drawn from {len(examples)} words")
    rng = np.random.default_rng(seed)
    rows = []
    for token in words.tokens:
        drawn = rng.permutation(len(examples))[: n_examples + 1]
        drawn = drawn[examples.tokens[drawn] != token][:n_examples]
        row = [] if bos is None else [bos]
        for i in drawn:
            row += [*template.before, int(examples.tokens[i]), *template.after[examples.letters[i]]]
        rows.append([*row, *template.before, int(token)])
    return torch.tensor(rows)
