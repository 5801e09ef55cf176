"""A single text divided into pieces, so that some of it can be held out."""

from __future__ import annotations

from temporal_sae.data.sources import Split, hash_fraction, held_out_below

PIECES = 10  # at least so many,
SMALLEST = 512  # but none shorter than that
LARGEST = 16384  # or longer; characters


def divide_text(text: str, name: str, held_out_fraction: float) -> dict[Split, list[str]]:
    """The pieces of each split; which one a piece belongs to depends on `name` and its number."""
    pieces = in_pieces(text)
    ranks = [hash_fraction(f"{name}/{number}") for number in range(len(pieces))]
    limit = held_out_below(ranks, held_out_fraction)
    ranked = list(zip(pieces, ranks, strict=True))
    return {
        "held_out": [piece for piece, rank in ranked if rank < limit],
        "train": [piece for piece, rank in ranked if rank >= limit],
    }


def in_pieces(text: str) -> list[str]:
    """The text, cut at ends of lines where there are any."""
    size = min(max(len(text) // PIECES, SMALLEST), LARGEST)
    pieces, start = [], 0
    while start < len(text):
        # The last piece takes what would be too short for one of its own.
        is_last = len(text) - start < size + SMALLEST
        line_end = text.rfind("\n", start + size // 2, start + size) + 1
        stop = len(text) if is_last else line_end or start + size
        pieces.append(text[start:stop])
        start = stop
    return pieces
