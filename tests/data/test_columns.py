"""Columns of tokens and of chats: what becomes of them, and the kind of every token."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from temporal_sae.assets import TINY_MODEL
from temporal_sae.data import HubText, TokenSequences, are_of, check_kinds
from temporal_sae.data.kinds import KINDS
from temporal_sae.data.packing import DOCUMENT, KIND, TOKEN
from temporal_sae.errors import InvalidOption, RunError

CHATML = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
TRIMMING = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{% endfor %}"
REWRITING = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
CHAT = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": " def f(x):\n    return x \n"},
    {"role": "assistant", "content": "Yes: return x + 1"},
]


@pytest.fixture
def tokenizer():
    found = AutoTokenizer.from_pretrained(TINY_MODEL)
    found.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    found.split_special_tokens = True
    found.chat_template = CHATML
    return found


def rows_of(folder, tokenizer, *rows, context=8, **options):
    """Every row of one pass over a file with these rows, without BOS."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = HubText(str(file), held_out_fraction=0, **options)
    sequences = TokenSequences(source, tokenizer, context, prepend_bos=False)
    found = []
    while sequences.epoch == 0:
        found.append(sequences.read())
    together = torch.cat(found)
    return together[together[:, DOCUMENT] < len(rows)], source


def test_tokens_are_taken_as_they_are(tmp_path, tokenizer):
    docs = [[5, 6, 7, 8], [9, 0, 10, 1], [11, 2049]]
    rows, _ = rows_of(tmp_path, tokenizer, *({"ids": d} for d in docs), tokens_column="ids")
    assert rows[:, TOKEN].tolist() == [5, 6, 7, 8, 1, 9, 0, 10, 1, 11, 2049, 1]
    ordinary = ~are_of(rows[:, KIND], ["bos", "separators"])
    assert rows[ordinary, TOKEN].tolist() == [5, 6, 7, 8, 9, 10, 11, 2049]
    assert rows[~are_of(rows[:, KIND], ["special"]), TOKEN].tolist() == [5, 6, 7, 8, 9, 10, 11]


BROKEN = [
    ({"ids": [5, 2050]}, "row 2 of train holds the token 2050 in the column ids; the tokenizer of"),
    ({"ids": [-100]}, "holds the token -100 in the column ids"),
    ({"ids": [0.5]}, "holds no list of tokens in the column ids but other things than tokens"),
    ({"ids": "5 6"}, "holds no list of tokens in the column ids but text"),
    ({"ids": [True]}, "but other things than tokens"),
    ({"chat": [5]}, "has no column ids but chat"),
]


@pytest.mark.parametrize(("row", "problem"), BROKEN)
def test_what_is_no_token_is_told_and_may_be_passed_over(tmp_path, tokenizer, row, problem):
    good = [{"ids": list(range(100, 120))}] * 2
    with pytest.raises(RunError) as refused:
        rows_of(tmp_path, tokenizer, good[0], row, good[1], tokens_column="ids")
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)
    _, source = rows_of(
        tmp_path, tokenizer, good[0], row, good[1], tokens_column="ids", skip_broken=1
    )
    assert source.left_out() == {"broken rows": {"count": 1, "example": "row 2"}}


def chat_rows(folder, tokenizer, *chats, **options):
    rows = [{"messages": chat} for chat in chats]
    return rows_of(folder, tokenizer, *rows, messages_column="messages", **options)


@pytest.mark.parametrize("template", [CHATML, TRIMMING])
def test_chats_are_tokenized_as_the_template_has_it(tmp_path, tokenizer, template):
    tokenizer.chat_template = template
    rows, _ = chat_rows(tmp_path, tokenizer, CHAT, CHAT[1:])
    expected = []
    for chat in (CHAT, CHAT[1:]):
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
        expected += [*ids, 1]
    assert rows[:, TOKEN].tolist() == expected


def decoded(tokenizer, rows, *names):
    return tokenizer.decode(rows[are_of(rows[:, KIND], names), TOKEN])


def test_every_token_of_a_chat_knows_its_role(tmp_path, tokenizer):
    rows, _ = chat_rows(tmp_path, tokenizer, CHAT)
    assert decoded(tokenizer, rows, "system") == CHAT[0]["content"]
    assert decoded(tokenizer, rows, "user").strip() == CHAT[1]["content"].strip()
    assert decoded(tokenizer, rows, "assistant") == CHAT[2]["content"]
    assert decoded(tokenizer, rows, "template").startswith("<|im_start|>system\n<|im_end|>")
    left = ~are_of(rows[:, KIND], ["separators", "template", "user", "system", "special"])
    assert tokenizer.decode(rows[left, TOKEN]) == CHAT[2]["content"]


def test_names_of_special_tokens_in_a_message_stay_text(tmp_path, tokenizer):
    chat = [{"role": "user", "content": "say <|im_end|> and <bos>"}, CHAT[2]]
    rows, _ = chat_rows(tmp_path, tokenizer, chat)
    assert decoded(tokenizer, rows, "user") == "say <|im_end|> and <bos>"
    assert not (are_of(rows[:, KIND], ["user"]) & are_of(rows[:, KIND], ["special"])).any()
    assert (rows[:, TOKEN] == tokenizer.convert_tokens_to_ids("<|im_end|>")).sum() == 2


BROKEN_CHATS = [
    ([{"role": "tool", "content": "x"}], CHATML, "does not fit the chat template (no tools here)"),
    (CHAT, REWRITING, "it rewrites messages, so that nothing tells their role"),
    ([{"role": "owl", "content": "x"}], CHATML, "holds no list of messages with role (system, "),
    ([{"role": "user", "content": None}], CHATML, "and content, which is text, in the column"),
    ([{"from": "user", "value": "x"}], CHATML, "holds no list of messages"),
    ("words", CHATML, "holds no list of messages"),
    ([{"role": "user", "content": "\ud83d"}], CHATML, "holds half a surrogate pair"),
]


@pytest.mark.parametrize(("chat", "template", "problem"), BROKEN_CHATS)
def test_a_chat_that_does_not_fit_is_a_broken_row(tmp_path, tokenizer, chat, template, problem):
    tokenizer.chat_template = template
    with pytest.raises(RunError) as refused:
        chat_rows(tmp_path, tokenizer, chat)
    assert problem in str(refused.value)
    assert "row 1 of train" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_without_a_template_is_refused(tmp_path, tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(InvalidOption, match="messages_column='messages': must be null, as the tok"):
        chat_rows(tmp_path, tokenizer, CHAT)


def test_two_columns_are_refused():
    with pytest.raises(InvalidOption, match="messages_column='b': must be null beside"):
        HubText("name", tokens_column="a", messages_column="b")


def test_kinds_are_named_or_refused():
    assert check_kinds("exclude", ["bos", "user"]) == ("bos", "user")
    assert check_kinds("exclude", []) == ()
    assert not are_of(torch.tensor([sum(KINDS.values())]), []).any()
    for wrong in ("bos", ["owl"], [1], None, {"bos": 1}):
        with pytest.raises(InvalidOption, match=r"exclude=.*bos, separators, padding"):
            check_kinds("exclude", wrong)
