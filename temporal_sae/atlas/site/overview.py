"""The file that the page loads first: facts, and what the overview shows of every latent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from temporal_sae.atlas.site import encode
from temporal_sae.atlas.site.vocabulary import Vocabulary

N_TOP_TOKENS = 4
COLUMNS = (
    "n",
    "max_activation",
    "burstiness",
    "degree",
    "community",
)
# Of a column of lists the mean of each, by which the overview sorts.
MEANS = {"stability": "snapshot_cosines", "seed_cosine": "seed_cosines"}


def overview(
    latents: pa.Table, vocabulary: Vocabulary, facts: Mapping[str, Any]
) -> dict[str, object]:
    """Return the content of the file.

    Args:
        latents: the table of the atlas.
        vocabulary: the strings of its tokens.
        facts: of the atlas and the site.
    """
    columns = {name: latents[name] for name in COLUMNS if name in latents.column_names}
    for name, source in MEANS.items():
        if source in latents.column_names:
            columns[name] = mean_of_each(latents[source])
    strings, tokens = top_tokens(latents, vocabulary)
    return {
        "facts": dict(facts),
        "strings": strings,
        "latents": encode.table({**columns, "tokens": tokens}),
    }


def mean_of_each(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the mean of each list of numbers, null of one that is empty."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    values = encode.numbers(column.combine_chunks().flatten())
    rows = np.repeat(np.arange(len(lengths)), lengths)
    sums = np.bincount(rows, values, len(lengths))
    is_empty = lengths == 0
    means = pa.array(sums / np.maximum(lengths, 1), pa.float32(), mask=is_empty)
    return pa.chunked_array([means])


def top_tokens(
    latents: pa.Table, vocabulary: Vocabulary
) -> tuple[list[str], dict[str, encode.Encoded]]:
    """Return the strings of the tokens that latents fire on most, and of each latent the first."""
    ids = latents["top_token_ids"]
    lengths = pc.fill_null(pc.list_value_length(ids), 0).to_numpy()
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    shown = encode.numbers(ids.combine_chunks().flatten())[place < N_TOP_TOKENS]
    strings, codes = vocabulary.coded(shown.astype(np.int64))
    return strings, encode.lists(np.minimum(lengths, N_TOP_TOKENS), codes)
