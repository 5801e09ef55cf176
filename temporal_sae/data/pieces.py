"""A single file divided into pieces, so that some of it can be held out."""

from __future__ import annotations

from collections.abc import Iterator

from temporal_sae.data.documents import cut
from temporal_sae.data.sources import Split, hash_fraction, held_out_below

PIECES = 10  # at least so many,
SMALLEST = 512  # but none shorter than that
LARGEST = 16384  # or longer; characters


def divide(n_pieces: int, name: str, held_out_fraction: float) -> dict[Split, list[int]]:
    """Return the numbers of the pieces of each split, which depend on `name` and the number."""
    ranks = [hash_fraction(f"{name}/{number}") for number in range(n_pieces)]
    limit = held_out_below(ranks, held_out_fraction)
    return {
        "held_out": [number for number, rank in enumerate(ranks) if rank < limit],
        "train": [number for number, rank in enumerate(ranks) if rank >= limit],
    }


def piece_size(blocks: Iterator[str]) -> int:
    """Return the characters of a piece of a text, which is not read farther than that takes."""
    length = 0
    for block in blocks:
        length += len(block)
        if length >= PIECES * LARGEST:
            break
    return min(max(length // PIECES, SMALLEST), LARGEST)


def in_pieces(blocks: Iterator[str], size: int) -> Iterator[str]:
    """Yield the text in pieces, cut at ends of lines where there are any."""

    def end_of(text: str, start: int) -> int:
        # The last piece takes what would be too short for one of its own.
        is_last = len(text) - start < size + SMALLEST
        line_end = text.rfind("\n", start + size // 2, start + size) + 1
        return len(text) if is_last else line_end or start + size

    return (piece for piece, _ in cut(blocks, size + SMALLEST, end_of))
