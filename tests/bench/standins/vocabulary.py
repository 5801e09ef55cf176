"""A made-up language: words that begin with every letter, each about one of 16 topics."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOWELS = "aeiou"
N_TOPICS = 16
WORDS_PER_LETTER = 12
# Words of the prompts that SAEBench asks with; tests add theirs by calling `make_tokenizer`.
PROMPT_WORDS = ("has", "the", "first", "letter")
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
PAD, EOS, BOS, UNK = range(4)
CHARACTERS = [chr(n) for n in range(33, 127)] + ["\n", "\t", "▁"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}"
    "<end_of_turn>\n{% endfor %}"
)


@cache
def words() -> tuple[str, ...]:
    """The words in the order of their first letters."""
    rng = random.Random(11)
    consonants = [c for c in LETTERS if c not in VOWELS]
    found: list[str] = []
    for first in LETTERS:
        own: set[str] = set()
        while len(own) < WORDS_PER_LETTER:
            rest = "".join(rng.choice(consonants) + rng.choice(VOWELS) for _ in range(2))
            own.add(first + rest)
        found += sorted(own)
    return tuple(found)


def topic_of(place: int) -> int:
    """Topic of the word at a place in `words()`."""
    return place % N_TOPICS


@cache
def of_topic(topic: int) -> tuple[str, ...]:
    """The words of a topic."""
    return words()[topic::N_TOPICS]


def make_tokenizer(more_words: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Every word is one token, with and without a space before it; so is every character."""
    whole = [*words(), *PROMPT_WORDS, *more_words]
    pieces = dict.fromkeys(SPECIAL, 0.0)
    pieces |= dict.fromkeys(CHARACTERS, -20.0)
    pieces |= {f"▁{letter.upper()}": -8.0 for letter in LETTERS}
    pieces |= {form: -8.0 for word in whole for form in (f"▁{word}", word)}
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=2048,
        chat_template=CHAT,
    )


def save_tokenizer(folder: Path, more_words: tuple[str, ...] = ()) -> None:
    """Beside a model."""
    make_tokenizer(more_words).save_pretrained(folder)
