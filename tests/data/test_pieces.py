"""A single text divided into pieces."""

from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.data import pieces
from temporal_sae.data.pieces import LARGEST, SMALLEST, divide, piece_size

LINES = st.lists(st.integers(0, 900), max_size=60).map(
    lambda lengths: "\n".join("x" * n for n in lengths)
)


def in_pieces(text, block=2**20):
    blocks = [text[n : n + block] for n in range(0, len(text), block)]
    return list(pieces.in_pieces(iter(blocks), piece_size(iter(blocks))))


def divide_text(text, name, fraction):
    found = in_pieces(text)
    numbers = divide(len(found), name, fraction)
    return {split: [found[n] for n in some] for split, some in numbers.items()}


@given(LINES, st.integers(1, 5000))
def test_pieces_do_not_depend_on_how_the_text_is_read(text, block):
    assert in_pieces(text, block) == in_pieces(text)


@given(LINES)
def test_nothing_is_lost_and_pieces_are_of_like_size(text):
    found = in_pieces(text)
    assert "".join(found) == text
    for piece in found[:-1]:
        assert SMALLEST // 2 <= len(piece) <= LARGEST


@given(st.integers(2 * SMALLEST, 20 * LARGEST), st.floats(0.01, 0.9))
def test_both_sides_have_pieces_of_all_but_the_shortest_texts(length, fraction):
    text = "".join(f"{n:9d}\n" for n in range(length // 10 + 1))
    divided = divide_text(text, "book.txt", fraction)
    assert divided["train"] and divided["held_out"]
    assert sorted(divided["train"] + divided["held_out"]) == sorted(in_pieces(text))


def test_pieces_keep_their_side_when_text_is_added_at_the_end():
    text = "".join(f"line {n}\n" for n in range(50_000))
    before = divide_text(text, "book.txt", 0.1)
    after = divide_text(text + "more\n" * 50_000, "book.txt", 0.1)
    for split in before:
        lost = set(before[split]) - set(after[split])
        assert len(lost) <= 1  # the last one has grown


def test_a_share_is_held_out():
    text = "".join(f"line {n}\n" for n in range(500_000))
    divided = divide_text(text, "book.txt", 0.2)
    assert 0.15 < sum(map(len, divided["held_out"])) / len(text) < 0.25


def test_a_short_text_stays_whole():
    assert divide_text("a few words", "book.txt", 0.5) == {"train": ["a few words"], "held_out": []}
