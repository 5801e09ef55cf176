"""The files of the latents, some latents in each: all that the page of one shows."""

from __future__ import annotations

from collections.abc import Iterator

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
    latents: pa.Table, examples: pa.Table, partners: pa.Table, vocabulary: Vocabulary
) -> Iterator[dict[str, object]]:
    """Yield the content of one file after the other.

    Args:
        latents: the table of the atlas.
        examples: likewise, by latent.
        partners: of each latent, by latent, see `Pairs.listed`.
        vocabulary: the strings of the tokens.
    """
    largest = encode.numbers(latents["max_activation"].combine_chunks())
    firsts = np.arange(0, len(latents) + LATENTS_IN_FILE, LATENTS_IN_FILE)
    bounds = [np.searchsorted(encode.numbers(t["latent"]), firsts) for t in (examples, partners)]
    shown = [name for name in latents.column_names if name not in NOT_SHOWN]
    for n, first in enumerate(firsts[:-1].tolist()):
        own, seen, listed = (
            table.slice(start, stop - start)
            for table, (start, stop) in zip(
                (latents, examples, partners),
                ((first, first + LATENTS_IN_FILE), *(b[n : n + 2].tolist() for b in bounds)),
                strict=True,
            )
        )
        top = own["top_token_ids"]
        strings, tokens = vocabulary.coded(np.append(ids_of(top), ids_of(seen["token_ids"])))
        n_top = len(ids_of(top))
        yield {
            "first": first,
            "strings": strings,
            "latents": {
                **encode.table({name: own[name] for name in shown}),
                "top_tokens": encode.lists(lengths_of(top), tokens[:n_top]),
            },
            "examples": example_columns(seen, tokens[n_top:], largest),
            "partners": encode.table({name: listed[name] for name in listed.column_names}),
        }


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
