"""Packed windows: nothing lost, nothing padded, exact to continue."""

import argparse
import itertools
import re
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from temporal_sae.assets import TINY_MODEL
from temporal_sae.data import TextFiles, TextSource, TokenSequences, documents, packing
from temporal_sae.errors import InvalidOption, RunError


class Words(TextSource):
    """Documents of given lengths whose tokens are all different."""

    def __init__(self, lengths):
        starts = [sum(lengths[:n]) + 100 for n in range(len(lengths))]
        self.docs = [
            " ".join(str(t) for t in range(s, s + n)) for s, n in zip(starts, lengths, strict=True)
        ]

    def documents(self, split, seed, epoch, start=0):
        yield from list(enumerate(self.docs, start=1))[start:]


def tokenizer(bos=1, eos=2):
    def call(text, **_):
        return {"input_ids": [int(t) for t in text.split()]}

    return with_special(call, bos, eos)


def with_special(call, bos=1, eos=2):
    call.bos_token_id, call.eos_token_id, call.pad_token_id = bos, eos, None
    call.all_special_ids, call.added_tokens_decoder = [n for n in (bos, eos) if n], {}
    return call


def windows(lengths, context=8, tok=None, **options):
    return TokenSequences(Words(lengths), tok or tokenizer(), context, **options)


def test_every_window_begins_with_bos_and_documents_end_with_eos():
    first = next(windows([3, 20]))
    assert first.tolist() == [1, 100, 101, 102, 2, 103, 104, 105]


def test_without_bos_and_eos():
    tok = tokenizer(bos=None, eos=None)
    first = next(windows([3, 20], tok=tok, prepend_bos=False))
    assert first.tolist() == [100, 101, 102, 103, 104, 105, 106, 107]
    with pytest.raises(InvalidOption, match="prepend_bos"):
        windows([3, 20], tok=tok)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=10), st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_one_pass_loses_only_the_last_piece(lengths, context):
    body = context - 1
    total = sum(lengths) + len(lengths)
    stream = windows(lengths, context, repeat=False)
    if total < body:
        with pytest.raises(RunError, match="fewer than one sequence"):
            next(stream)
        return
    packed = [t for w in stream for t in w.tolist()[1:]]
    expected = []
    for n, doc in zip(lengths, Words(lengths).docs, strict=True):
        expected += [int(t) for t in doc.split()] + [2]
        assert len(doc.split()) == n
    assert packed == expected[: total // body * body]


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=10).filter(any),
    st.integers(2, 12),
    st.integers(0, 12),
    st.sampled_from([30, documents.PIECE_CHARS]),
)
@settings(max_examples=50, deadline=None)
def test_rows_tell_document_and_position_of_every_token(lengths, context, n, piece):
    """Through pieces, empty documents, a second pass and a stop in between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE_CHARS", piece)
        stream, plain = windows([*lengths, 20], context), windows([*lengths, 20], context)
        docs = [[int(t) for t in d.split()] for d in Words([*lengths, 20]).docs]
        docs = [[*doc, 2] if doc else [] for doc in docs] * 100
        for step in range(20):
            if step == n:
                other = windows([*lengths, 20], context)
                other.load_state_dict(stream.state_dict())
                stream = other
            rows = stream.read()
            assert torch.equal(rows[:, 0].long(), next(plain))
            assert rows[0, :3].tolist() == [1, int(rows[1, 1]), -1]
            assert all(docs[d][p] == t for t, d, p, _ in rows[1:].tolist())


@given(st.integers(0, 40), st.sampled_from([30, documents.PIECE_CHARS]))
@settings(max_examples=40, deadline=None)
def test_continues_exactly_across_the_end_of_a_pass_and_inside_a_document(n, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE_CHARS", piece)
        stream, other = windows([5, 9, 170]), windows([5, 9, 170])
        for _ in range(n):
            next(stream)
        other.load_state_dict(stream.state_dict())
        for _ in range(30):
            assert next(stream).tolist() == next(other).tolist()
        assert stream.epoch == other.epoch


def test_a_state_that_tells_nothing_of_pieces_is_continued():
    stream, other = windows([5, 9, 17]), windows([5, 9, 17])
    next(stream)
    state = stream.state_dict()
    del state["offset"]
    other.load_state_dict({**state, "waiting": state["waiting"].long()})
    assert [next(stream).tolist() for _ in range(9)] == [next(other).tolist() for _ in range(9)]


@given(st.lists(st.sampled_from(["a", "bc", " ", "  ", "\n", "\n\n", "é"]), max_size=60))
@settings(max_examples=100, deadline=None)
def test_pieces_are_the_text_and_end_where_a_word_ends_if_there_is_one(parts):
    text = "".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE_CHARS", 8)
        ends = [0]
        while ends[-1] < len(text):
            ends.append(documents.piece_end(text, ends[-1]))
    for start, end in itertools.pairwise(ends):
        assert 0 < end - start <= 8
        if end < len(text) and re.search(r"\S\s", text[start + 4 : start + 8]):
            assert re.match(r"\S\s", text[end - 1 : end + 1])


def test_pieces_of_source_code_have_the_tokens_of_the_whole(monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    text = Path(argparse.__file__).read_text()
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(documents, "PIECE_CHARS", 1000)
    end, pieces = 0, []
    while end < len(text):
        start, end = end, documents.piece_end(text, end)
        pieces += tokenizer(text[start:end], add_special_tokens=False)["input_ids"]
    assert pieces == whole


def peak_of(path, size, **options):
    """The most bytes that Python holds while 200 sequences of such a file are read."""
    line = "def function(x):\n    return x + 1  # é\n"
    path.write_text(line * (size // len(line)))
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    tracemalloc.start()
    try:
        stream = TokenSequences(TextFiles(str(path), **options), tokenizer, 128)
        for _ in range(200):
            next(stream)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("options", [{"held_out_fraction": 0}, {"held_out_fraction": 0.1}])
def test_a_large_file_costs_no_more_memory_than_a_small_one(tmp_path, options):
    small, large = (peak_of(tmp_path / "a.txt", n * 2**20, **options) for n in (2, 20))
    assert large < small + 2 * 2**20 < 10 * 2**20


def characters(text, **_):
    return {"input_ids": list(map(ord, text))}


with_special(characters)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("limit", [None, 1_200_000])
def test_a_long_file_is_continued_inside(tmp_path, encoding, limit):
    text = "".join(f"x{n} = 'Grüße, 世界 🌍'\n" for n in range(60_000))
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))

    def stream():
        source = TextFiles(str(tmp_path), held_out_fraction=0, max_document_chars=limit)
        return TokenSequences(source, characters, 4096, repeat=False)

    stopped, continued = stream(), stream()
    before = list(itertools.islice(stopped, 200))
    state = stopped.state_dict()
    assert state["offset"] > 0
    after = list(stopped)
    continued.load_state_dict(state)
    assert torch.equal(torch.stack(after), torch.stack(list(continued)))
    read = "".join(map(chr, torch.cat([s[1:] for s in before + after]).tolist()))
    assert text[:limit].startswith(read)
    assert len(read) > len(text[:limit]) - 4096


def test_a_long_file_that_is_no_text_in_the_end_is_left_out(tmp_path):
    for name, end in (("a", b""), ("b", b"\xff"), ("c", b"\0")):
        (tmp_path / name).write_bytes(b"word " * 300_000 + end)
    source = TextFiles(str(tmp_path), held_out_fraction=0)
    n_sequences = len(list(TokenSequences(source, characters, 4096, repeat=False)))
    assert source.left_out() == {
        "binary": {"count": 1, "example": "c"},
        "not UTF-8": {"count": 1, "example": "b"},
    }
    alone = TextFiles(str(tmp_path / "a"), held_out_fraction=0)
    assert n_sequences == len(list(TokenSequences(alone, characters, 4096, repeat=False)))


def test_a_long_file_that_is_damaged_while_it_is_read_is_named(tmp_path):
    (tmp_path / "a").write_bytes(b"word " * 600_000)
    source = TextFiles(str(tmp_path), held_out_fraction=0)
    stream = TokenSequences(source, characters, 4096)
    next(stream)
    with open(tmp_path / "a", "r+b") as file:
        file.seek(2_500_000)
        file.write(b"\xff")
    with pytest.raises(RunError, match=r"a: not UTF-8 behind byte \d+, unlike before"):
        list(stream)


def test_a_document_without_tokens_leaves_no_separator():
    stream = windows([3, 0, 0, 4], repeat=False)
    assert next(stream).tolist() == [1, 100, 101, 102, 2, 103, 104, 105]
    with pytest.raises(RunError, match="holds 0 tokens"):
        next(windows([0] * 50))


def test_special_tokens_between_documents_are_no_text():
    stream = windows([3, 20])
    rows = stream.read()
    assert rows[:, 0].tolist() == [1, 100, 101, 102, 2, 103, 104, 105]
    assert packing.is_text(rows).tolist() == [False, True, True, True, False, True, True, True]
    tok = tokenizer(bos=None, eos=None)
    assert packing.is_text(windows([20], tok=tok, prepend_bos=False).read()).all()


@pytest.mark.parametrize("stop", [0, 2, 5])
def test_the_second_pass_is_told_once_with_the_length_of_one(caplog, stop):
    stream = windows([9, 5, 8])
    for step in range(30):
        if step == stop:
            state, stream = stream.state_dict(), windows([9, 5, 8])
            stream.load_state_dict(state)
        next(stream)
    assert stream.epoch > 3
    assert caplog.messages == ["the train text begins its second pass: one holds 25 tokens"]


def test_one_pass_says_nothing_of_another(caplog):
    assert len(list(windows([9, 5, 8], repeat=False))) == 3
    assert caplog.messages == []


def test_too_little_text_says_how_much_there_is():
    with pytest.raises(RunError, match=r"holds 4 tokens.*context_size=8"):
        next(windows([3]))
