"""The files of the latents, some latents in each: all that the page of one shows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from temporal_sae.atlas.site import encode
from temporal_sae.atlas.site.sample import levels
from temporal_sae.atlas.site.vocabulary import Vocabulary

LATENTS_IN_FILE = 16
# The pages show strings; the others follow from the place of a row.
NOT_SHOWN = ("latent", "top_token_ids", "top_tokens", "top_logit_ids", "bottom_logit_ids")
OF_EXAMPLES = (
    "latent",
    "group",
    "document",
    "position",
    "activation",
    "place",
    "ablation_loss",
    "ablation_kl",
)


def latent_files(
    latents: pa.Table,
    examples: pa.Table,
    partners: pa.Table,
    overlaps: pa.Table | None,
    vocabulary: Vocabulary,
) -> Iterator[dict[str, object]]:
    """Yield the content of one file after the other.

    Args:
        latents: the table of the atlas.
        examples: likewise, by latent.
        partners: of each latent, by latent, see `Pairs.listed`.
        overlaps: the table of the atlas; None where there is none.
        vocabulary: the strings of the tokens.
    """
    largest = encode.numbers(latents["max_activation"].combine_chunks())
    shown = [name for name in latents.column_names if name not in NOT_SHOWN]
    n_files = -(-len(latents) // LATENTS_IN_FILE)
    seen, listed = (by_file(table, "latent", n_files) for table in (examples, partners))
    overlapping = None if overlaps is None else by_file(overlaps, "i", n_files)
    for n, (own_examples, own_partners) in enumerate(zip(seen, listed, strict=True)):
        own = latents.slice(n * LATENTS_IN_FILE, LATENTS_IN_FILE)
        top = ids_of(own["top_token_ids"])
        strings, tokens = vocabulary.coded(np.append(top, ids_of(own_examples["token_ids"])))
        yield {
            "first": n * LATENTS_IN_FILE,
            "strings": strings,
            "latents": {
                **encode.table({name: own[name] for name in shown}),
                "top_tokens": encode.lists(lengths_of(own["top_token_ids"]), tokens[: len(top)]),
            },
            "examples": example_columns(own_examples, tokens[len(top) :], largest),
            "partners": columns_of(own_partners),
            "overlaps": {} if overlapping is None else columns_of(next(overlapping)),
        }


def by_file(table: pa.Table, name: str, n_files: int) -> Iterator[pa.Table]:
    """Yield the rows of a table that go into each file, by the column of their latent."""
    firsts = LATENTS_IN_FILE * np.arange(n_files + 1)
    bounds = np.searchsorted(encode.numbers(table[name].combine_chunks()), firsts).tolist()
    for start, stop in pairwise(bounds):
        yield table.slice(start, stop - start)


def columns_of(table: pa.Table) -> dict[str, encode.Encoded]:
    """Return all columns of a table."""
    return encode.table({name: table[name] for name in table.column_names})


def example_columns(
    examples: pa.Table, tokens: np.ndarray, largest: np.ndarray
) -> dict[str, encode.Encoded]:
    """Return the examples of a file.

    Args:
        examples: their rows.
        tokens: of all contexts, as places among the strings of the file.
        largest: the largest activation of each latent.
    """
    lengths = lengths_of(examples["token_ids"])
    of_latents = np.repeat(largest[encode.numbers(examples["latent"])], lengths)
    values = encode.numbers(examples["activations"].combine_chunks().flatten())
    names = [name for name in OF_EXAMPLES if name in examples.column_names]
    return {
        **encode.table({name: examples[name] for name in names}),
        "tokens": encode.lists(lengths, tokens),
        "levels": encode.lists(lengths, levels(values, of_latents)),
    }


def ids_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return the tokens of all lists of a column."""
    return encode.numbers(column.combine_chunks().flatten())


def lengths_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return the length of each list of a column, 0 of null."""
    found: np.ndarray = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return found
