"""The strings of tokens, as the pages show them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


class Vocabulary:
    """What `tokens.parquet` knows of the tokens of a text.

    Args:
        tokens: the table; None where there is none.
    """

    def __init__(self, tokens: pa.Table | None) -> None:
        columns = ([], []) if tokens is None else (tokens[name].to_pylist() for name in COLUMNS)
        self._text = dict(zip(*columns, strict=True))

    def strings(self, ids: np.ndarray) -> list[str]:
        """Return the string of each token; of one without, its number."""
        return [self._string(n) for n in ids.tolist()]

    def _string(self, n: int) -> str:
        text = self._text.get(n)
        if text is not None:
            return str(text)
        return f"#{n}" if n >= 0 else "?"

    def coded(self, ids: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Return the strings of all tokens that occur, and of each token the place of its own."""
        names, places = np.unique(ids, return_inverse=True)
        return self.strings(names), places.reshape(ids.shape)


COLUMNS = ("id", "text")
