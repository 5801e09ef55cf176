"""Words of a tokenizer and the prompts around them."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from temporal_sae.assets import TINY_MODEL
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval.tasks.words import (
    Template,
    Words,
    check_words,
    concepts_of,
    find_words,
    make_prompts,
    split_words,
)

LINE = "\n{word}: '{letter}'"


@pytest.fixture(scope="module")
def bundled():
    return AutoTokenizer.from_pretrained(TINY_MODEL)


def byte_level(merges):
    """A tokenizer of single bytes and a few merges."""
    alphabet = sorted(ByteLevel.alphabet())
    vocab = {c: n for n, c in enumerate([*alphabet, *("".join(m) for m in merges)])}
    tokenizer = Tokenizer(BPE(vocab, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_words_of_a_small_vocabulary():
    merges = [("a", "b"), ("Ġ", "b"), ("Ġ", "ab"), ("Z", "y"), ("a", "1"), ("ab", "_")]
    words = find_words(byte_level(merges), Template(byte_level(merges), LINE))
    longer = [text for text in words.texts if len(text) > 1]
    assert longer == [" ab", " b", "Zy", "ab"]
    assert len(words) == 52 + 4
    assert list(words.texts) == sorted(words.texts)
    assert [words.letters[words.texts.index(text)] for text in longer] == [0, 1, 25, 0]


def test_a_word_that_does_not_stay_whole_is_none():
    """'ab:' is a token here, so that 'ab' in front of a colon is read as something else."""
    merges = [("a", "b"), ("c", "d"), ("ab", ":")]
    tokenizer = byte_level(merges)
    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    texts = find_words(tokenizer, Template(tokenizer, LINE)).texts
    assert "cd" in texts
    assert "ab" not in texts


def test_every_word_of_the_bundled_vocabulary_is_one_token(bundled):
    words = find_words(bundled, Template(bundled, LINE))
    assert len(words) > 1500
    assert {" self", "self", "def", "x"} <= set(words.texts)
    for text, token in zip(words.texts, words.tokens, strict=True):
        assert bundled(text, add_special_tokens=False)["input_ids"] == [token]
    assert set(words.letters) == set(range(26))


def test_prompts_are_what_the_tokenizer_reads(bundled):
    template = Template(bundled, LINE)
    words = find_words(bundled, template)
    chosen = words.take(np.arange(0, len(words), 100))
    prompts = make_prompts(template, chosen, words, n_examples=4, seed=0, bos=0)
    assert prompts.shape[0] == len(chosen)
    assert (prompts[:, 0] == 0).all()
    assert prompts[:, -1].tolist() == chosen.tokens.tolist()
    for row, text in zip(prompts, chosen.texts, strict=True):
        lines = bundled.decode(row[1:]).split("\n")
        assert lines[-1] == text
        assert len(lines) == 1 + 5
        for line in lines[1:-1]:
            word, letter = line.split(": ")
            assert letter == f"'{word.strip()[0].upper()}'"
            assert word != text
        whole = bundled(bundled.decode(row[1:]), add_special_tokens=False)["input_ids"]
        assert whole == row[1:].tolist()


def test_the_seed_fixes_prompts_and_split(bundled):
    template = Template(bundled, LINE)
    words = find_words(bundled, template).take(np.arange(40))
    prompts = [make_prompts(template, words, words, 2, seed) for seed in (0, 0, 1)]
    assert torch.equal(prompts[0], prompts[1])
    assert not torch.equal(prompts[0], prompts[2])
    assert make_prompts(template, words, words, 0, 0).shape == (40, 2)
    with pytest.raises(RunError, match="40 examples are drawn from 40 words"):
        make_prompts(template, words, words, 40, 0)


def words_of(*texts):
    letters = np.array([ord(text.strip()[0].lower()) - ord("a") for text in texts])
    return Words(texts, np.arange(len(texts)), letters)


def test_every_letter_is_on_both_sides():
    words = words_of(*(f"a{n}" for n in range(10)), "b1", "b2", "c")
    train, test = split_words(words, 0.2, seed=0)
    assert not set(train) & set(test)
    counts = [np.bincount(words.letters[side], minlength=3).tolist() for side in (train, test)]
    assert counts == [[8, 1, 0], [2, 1, 0]]
    assert [side.tolist() for side in split_words(words, 0.2, 0)] == [train.tolist(), test.tolist()]


def test_concepts():
    words = words_of("ab", " Ac", "ad", " Bc", "bd", "cd")
    names, labels = concepts_of(words, np.array([0, 1, 3]), np.array([2, 3, 4]))
    assert names == ["a", "b", "space", "capital"]  # c is neither trained nor tested
    assert labels.int().T.tolist() == [
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 1, 0, 1, 0, 0],
        [0, 1, 0, 1, 0, 0],
    ]


@pytest.mark.parametrize(
    "template", ["{word}", "{letter} {word}", "{word} {word} {letter}", "{word}{letter}{letter}"]
)
def test_a_template_has_a_word_and_then_a_letter(bundled, template):
    with pytest.raises(InvalidOption, match="template"):
        Template(bundled, template)


def test_refused_in_one_line(bundled):
    with pytest.raises(RunError, match="splits J, K, Q") as error:
        check_words(bundled, "\n{word} has the first letter: {letter}")
    assert "\n" not in str(error.value)
    with pytest.raises(RunError, match=r"at least 200 alphabetic words .* has 52"):
        check_words(byte_level([]), LINE)
    check_words(bundled, LINE)
