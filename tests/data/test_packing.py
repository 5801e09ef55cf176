"""Packed windows: nothing lost, nothing padded, exact to continue."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.data import TokenWindows
from temporal_sae.errors import InvalidOption, RunError


class Words:
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

    call.bos_token_id, call.eos_token_id = bos, eos
    return call


def windows(lengths, context=8, tok=None, **options):
    return TokenWindows(Words(lengths), tok or tokenizer(), context, **options)


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
        with pytest.raises(RunError, match="fewer than one window"):
            next(stream)
        return
    packed = [t for w in stream for t in w.tolist()[1:]]
    expected = []
    for n, doc in zip(lengths, Words(lengths).docs, strict=True):
        expected += [int(t) for t in doc.split()] + [2]
        assert len(doc.split()) == n
    assert packed == expected[: total // body * body]


@given(st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_continues_exactly_across_the_end_of_a_pass(n):
    stream, other = windows([5, 9, 17]), windows([5, 9, 17])
    for _ in range(n):
        next(stream)
    other.load_state_dict(stream.state_dict())
    for _ in range(20):
        assert next(stream).tolist() == next(other).tolist()
    assert stream.epoch == other.epoch


def test_too_little_text_says_how_much_there_is():
    with pytest.raises(RunError, match=r"holds 4 tokens.*context_size=8"):
        next(windows([3]))
