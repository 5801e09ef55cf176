"""The strings of tokens, as the pages show them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

UNKNOWN = "?"


class Vocabulary:
    """The strings of the tokens of a text, from `tokens.parquet`.

    Args:
        tokens: the table.
    """

    def __init__(self, tokens: pa.Table) -> None:
        ids, texts = (tokens[name].to_pylist() for name in ("id", "text"))
        # By id + 1, since -1 is a token that nobody knows; Python strings, made once.
        self._texts = np.full(max(ids, default=-1) + 2, UNKNOWN, object)
        for n, text in zip(ids, texts, strict=True):
            self._texts[n + 1] = f"#{n}" if text is None else text

    def coded(self, ids: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Return the strings of all tokens that occur, and of each token the place of its own."""
        names, places = np.unique(ids, return_inverse=True)
        known = np.where(names < len(self._texts) - 1, names, -1)
        return self._texts[known + 1].tolist(), places.reshape(ids.shape)
