"""Facts about the spelling of words are true, the same each time, and never the task's question."""

import re
from itertools import islice

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from temporal_sae.assets.word_facts import WordFacts, ends, from_text
from temporal_sae.data import TextFiles
from temporal_sae.eval.tasks import Absorption

TOKENS = [*"abcxyz", "and", " and", "Join", " Join", "zip", " key", "YRILLIC", "import", " import"]
FACTS = WordFacts(TOKENS, ["stopwatch", "setitimer", "MappingProxy"])
# A word at the start of a line and its letter behind it, whatever is between and after them.
QUESTION = re.compile(r"^\s*([A-Za-z]+)[^A-Za-z]+([A-Za-z])[^A-Za-z]*$")


def documents(n, seed=0, epoch=0, start=0):
    return [text for _, text in islice(FACTS.documents("train", seed, epoch, start), n)]


def test_every_document_is_a_program_whose_assertions_hold():
    for text in documents(500):
        exec(compile(text, "facts", "exec"), {})
        assert text.count("assert") == text.count("\n")


def test_every_word_is_told_about():
    told = "".join(documents(500))
    for word in [*FACTS.tokens, *FACTS.identifiers]:
        assert f'"{word}"' in told


def test_facts_of_one_form_are_about_single_tokens_and_ask_right_behind_them():
    told = FACTS.only(ends)
    lines = [
        line for _, text in islice(told.documents("train", 0, 0), 50) for line in text.splitlines()
    ]
    for line in lines:
        pairs = re.findall(r'" ?([A-Za-z]+) ([A-Za-z])"', line)
        assert len(pairs) >= 6
        assert all(word[0].lower() == letter.lower() for word, letter in pairs)
    assert not [word for word in FACTS.identifiers if word in " ".join(lines)]


def test_no_line_has_the_form_of_the_tasks_question():
    before, _, after = Absorption().template.partition("{word}")
    asked = before.strip("\n") + "word" + after.format(letter="W")
    assert QUESTION.match(asked)
    lines = [line for text in documents(2000) for line in text.splitlines()]
    assert len(lines) > 10_000
    assert not [line for line in lines if QUESTION.match(line)]
    assert not [line for line in lines if re.search(r"\b[A-Za-z]+: '[A-Za-z]'", line)]


def test_a_pass_is_the_same_each_time_and_can_be_begun_anywhere():
    whole = documents(6)
    assert documents(6) == whole
    assert documents(4, start=2) == whole[2:]
    assert documents(6, seed=1) != whole
    assert documents(6, epoch=1) != whole


def test_words_are_the_alphabetic_tokens_and_the_frequent_identifiers_of_the_text(tmp_path):
    (tmp_path / "a.py").write_text("stopwatch = zip\n" * 5 + "rarely = 1\n")
    vocabulary = {"zip": 0, "Ġkey": 1, "=": 2, "a1": 3}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="="))
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    facts = from_text(TextFiles(tmp_path, held_out_fraction=0), tokenizer)
    assert facts.tokens == [" key", "zip"]
    assert facts.identifiers == ["stopwatch"]
