"""Rows that are no text: told in one line, and passed over only where that is allowed."""

import json
import logging

import pytest
from datasets import Dataset, Features, Value

from temporal_sae.data import HubText, TokenSequences
from temporal_sae.errors import InvalidOption, RunError


def read(name, **options):
    source = HubText(str(name), held_out_fraction=0, **options)
    return [text for _, text in source.documents("train", 0, 0)]


def lines(folder, **broken):
    """Twenty rows of text, of which some are replaced."""
    rows = [json.dumps({"text": f"document {n}"}) for n in range(1, 21)]
    for number, line in broken.items():
        rows[int(number[1:]) - 1] = line
    file = folder / "rows.jsonl"
    file.write_bytes("\n".join(rows).encode("utf-8", "surrogateescape"))
    return file


BROKEN = [
    ('{"text": "docum', "is no JSON"),
    ('{"text": "caf\udce9"}', "is no JSON"),  # Latin-1
    ('["document"]', "is no JSON object but a list"),
    ('{"text": "half \\ud83d"}', "holds half a surrogate pair in the column text"),
    ('{"text": [{"role": "user"}]}', "holds no text in the column text but a list"),
    ('{"text": {"a": 1}}', "holds no text in the column text but an object"),
    ('{"text": 7}', "holds no text in the column text but a number"),
    ('{"body": "document"}', "has no column text but body"),
]


@pytest.mark.parametrize(("line", "problem"), BROKEN)
def test_a_broken_row_is_named_with_its_data_set_and_number(tmp_path, line, problem):
    file = lines(tmp_path, r7=line)
    with pytest.raises(RunError) as refused:
        read(file)
    told = str(refused.value)
    assert told.startswith(f"data.name={file}: row 7 of train {problem}")
    assert "data.skip_broken=0" in told
    assert "\n" not in told


@pytest.mark.parametrize(("line", "problem"), BROKEN)
def test_a_number_of_them_may_be_passed_over_and_is_told(tmp_path, caplog, line, problem):
    file = lines(tmp_path, r7=line, r9=line)
    with caplog.at_level(logging.WARNING):
        source = HubText(str(file), held_out_fraction=0, skip_broken=2)
        for epoch in range(2):
            found = [text for _, text in source.documents("train", 0, epoch)]
    assert found == [f"document {n}" for n in range(1, 21) if n not in (7, 9)]
    assert [problem in record.message for record in caplog.records] == [True, True]
    assert source.left_out() == {"broken rows": {"count": 2, "example": "row 7"}}
    with pytest.raises(RunError, match=r"row 9 of train.*data.skip_broken=1"):
        read(file, skip_broken=1)


def test_a_continued_pass_knows_what_it_has_passed_over(tmp_path):
    file = lines(tmp_path, r3="{", r15="{")

    def windows():
        def tokenizer(text, **_):
            return {"input_ids": [int(text.split()[1])]}

        tokenizer.bos_token_id = tokenizer.eos_token_id = tokenizer.pad_token_id = 0
        tokenizer.all_special_ids, tokenizer.added_tokens_decoder = [0], {}
        source = HubText(str(file), held_out_fraction=0, skip_broken=1)
        return TokenSequences(source, tokenizer, 2)

    stream, other = windows(), windows()
    for _ in range(20):
        next(stream)
    other.load_state_dict(stream.state_dict())
    for either in (stream, other):
        with pytest.raises(RunError, match="row 15"):
            for _ in range(20):
                next(either)
    assert other.source.left_out() == stream.source.left_out()


def test_shuffled_rows_keep_their_numbers(tmp_path):
    file = lines(tmp_path, r7="{")
    with pytest.raises(RunError, match="row 7 of train"):
        read(file, shuffle_buffer=20)
    assert len(read(file, shuffle_buffer=20, skip_broken=1)) == 19


def test_rows_without_text_are_counted(tmp_path):
    file = lines(tmp_path, r2='{"text": null}', r5='{"text": ""}', r6="")
    source = HubText(str(file), held_out_fraction=0.5)
    for split in ("train", "held_out", "train"):
        list(source.documents(split, 0, 0))
    assert source.left_out() == {"rows without text": {"count": 3, "example": "row 2"}}


@pytest.mark.parametrize("streaming", [True, False])
def test_a_wrong_column_is_refused_with_those_there_are(tmp_path, monkeypatch, streaming):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "a.json").write_text('[{"body": "words", "n": 1}]')
    (tmp_path / "a.jsonl").write_text('{"body": "words", "n": 1}\n')
    for name in ("a.json", "a.jsonl"):
        with pytest.raises(InvalidOption, match="text_column='text': must be one of body, n"):
            read(tmp_path / name, streaming=streaming)


def test_rows_of_a_table_that_are_no_text(tmp_path):
    chats = [[{"role": "user", "content": "words"}]] * 3
    Dataset.from_dict({"messages": chats}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(RunError, match="row 1 of train holds no text in the column messages but a"):
        read(tmp_path / "a.parquet", text_column="messages")
    typed = Dataset.from_dict({"text": [1, 2]}, Features({"text": Value("int64")}))
    typed.to_parquet(tmp_path / "b.parquet")
    with pytest.raises(RunError, match="but a number"):
        read(tmp_path / "b.parquet")


def test_the_advice_for_an_empty_split_is_about_data_sets():
    assert "data.path" not in HubText("name").held_out_advice
