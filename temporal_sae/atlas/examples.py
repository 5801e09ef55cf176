"""`examples.parquet`: for every latent, tokens in which it fires, or narrowly does not, in context.

Group 0 has the largest activations, each the largest of its surroundings; groups 1 to 5 a random
sample from each of five equal intervals of (0, max], the highest first; group 6 near misses, tokens
of the kinds that the latent fires on most in which it is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from temporal_sae.activations.rows import DOCUMENT, POSITION
from temporal_sae.atlas import page_loops
from temporal_sae.atlas.counting import Postings
from temporal_sae.atlas.firings import Firings
from temporal_sae.atlas.summaries import Summaries, Tokens
from temporal_sae.kernels.threads import on_threads

N_TOP, N_INTERVALS, N_SAMPLED, N_NEAR_MISSES = 20, 5, 5, 5
LEFT, RIGHT = 24, 8  # tokens of a context beside its own
TOP, NEAR_MISSES = 0, N_INTERVALS + 1
CANDIDATES = 5 * N_TOP
KINDS = 3  # of tokens that are searched for near misses
ATTEMPTS = 64

SCHEMA = pa.schema(
    [
        ("latent", pa.int32()),
        ("group", pa.int8()),
        ("rank", pa.int16()),
        ("token", pa.int64()),
        *((name, pa.int32()) for name in ("document", "position")),
        ("activation", pa.float32()),
        ("first", pa.int64()),
        ("place", pa.int16()),
        ("token_ids", pa.list_(pa.int32())),
        ("activations", pa.list_(pa.float32())),
    ]
)
TOKENS_SCHEMA = pa.schema([("id", pa.int32()), ("text", pa.string()), ("n", pa.int64())])

TextOf = Callable[[Sequence[int]], list[str]]


class Text(NamedTuple):
    """A text as examples are taken from it.

    Attributes:
        tokens: in columns.
        begins, ends: the first token of each token's document, and the one after its last, int32.
        order: the tokens, by id, int32.
        id_starts: where those of each id begin in `order`, and their end, int64.
    """

    tokens: Tokens
    begins: np.ndarray
    ends: np.ndarray
    order: np.ndarray
    id_starts: np.ndarray

    @classmethod
    def of(cls, firings: Firings) -> Text:
        """Return the text of some firings."""
        tokens = Tokens.of(firings)
        documents = firings.places[:, DOCUMENT]
        n = len(documents)
        cuts = np.flatnonzero(documents[1:] != documents[:-1]) + 1
        edges = np.concatenate([[0], cuts, [n]]).astype(np.int32)
        sizes = np.diff(edges)
        order = np.argsort(tokens.ids, kind="stable").astype(np.int32)
        id_starts = np.searchsorted(tokens.ids[order], np.arange(tokens.n_ids + 1))
        return cls(
            tokens, np.repeat(edges[:-1], sizes), np.repeat(edges[1:], sizes), order, id_starts
        )


def example_table(
    firings: Firings, postings: Postings, summaries: Summaries, text: Text
) -> pa.Table:
    """Return the examples of the latents of some postings.

    Args:
        firings: of all latents.
        postings: of some.
        summaries: of the same latents.
        text: of the firings.
    """
    latents, groups, ranks, tokens = chosen(firings, postings, summaries, text)
    firsts = np.maximum(text.begins[tokens], tokens - LEFT)
    sizes = np.minimum(text.ends[tokens], tokens + RIGHT + 1) - firsts
    offsets = np.concatenate([[0], sizes.cumsum()])
    activations = np.empty(offsets[-1], np.float32)
    columns = firings.latents, firings.values, firings.starts
    on_threads(page_loops.read_contexts, columns, latents, firsts, offsets, activations)
    in_contexts = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - firsts, sizes)
    places = tokens - firsts

    def lists(values: np.ndarray) -> pa.ListArray:
        return pa.ListArray.from_arrays(offsets.astype(np.int32), values)

    return pa.table(
        {
            "latent": latents.astype(np.int32),
            "group": groups,
            "rank": ranks,
            "token": tokens,
            "document": firings.places[tokens, DOCUMENT],
            "position": firings.places[tokens, POSITION],
            "activation": activations[offsets[:-1] + places],
            "first": firsts,
            "place": places.astype(np.int16),
            "token_ids": lists(text.tokens.ids[in_contexts]),
            "activations": lists(activations),
        },
        SCHEMA,
    )


def chosen(
    firings: Firings, postings: Postings, summaries: Summaries, text: Text
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return latent, group, rank in the group, and token of each example, in order."""
    lists, n = (postings.starts, postings.tokens, postings.places), len(postings.starts) - 1
    top = np.full((n, N_TOP), -1, np.int64)
    parts = torch.get_num_threads()
    room = np.empty((parts, CANDIDATES), np.float32), np.empty((parts, CANDIDATES), np.int64)
    apart = LEFT + RIGHT + 1
    on_threads(page_loops.pick_largest, lists, firings.values, apart, apart, room, top)
    sampled = np.full((n, N_INTERVALS, N_SAMPLED), -1, np.int64)
    of_latents = lists, firings.values, postings.lo, summaries.maximum
    on_threads(page_loops.sample_intervals, *of_latents, top, sampled)
    silent = np.full((n, N_NEAR_MISSES), -1, np.int64)
    columns = firings.latents, firings.values, firings.starts
    kinds = np.ascontiguousarray(summaries.top_ids[:, :KINDS])
    by_id = text.order, text.id_starts
    on_threads(page_loops.find_silent, columns, postings.lo, kinds, by_id, ATTEMPTS, silent)
    ordered = by_activation(sampled, postings, firings.values).reshape(n, -1)
    fires = np.concatenate([top, ordered], 1)
    fires[fires >= 0] = postings.tokens[fires[fires >= 0]]
    tokens = np.concatenate([fires, silent], 1)
    rows, columns_of = np.nonzero(tokens >= 0)
    groups, ranks = places_of_columns()
    return rows + postings.lo, groups[columns_of], ranks[columns_of], tokens[rows, columns_of]


def by_activation(sampled: np.ndarray, postings: Postings, values: np.ndarray) -> np.ndarray:
    """Return samples with the largest activation first, those that are missing last."""
    activations = np.full(sampled.shape, -np.inf, np.float32)
    activations[sampled >= 0] = values[postings.places[sampled[sampled >= 0]]]
    return np.take_along_axis(sampled, np.argsort(-activations, axis=-1, kind="stable"), -1)


def places_of_columns() -> tuple[np.ndarray, np.ndarray]:
    """Return group and rank of the examples of a latent, where it has all of them."""
    sizes = [N_TOP, *(N_SAMPLED,) * N_INTERVALS, N_NEAR_MISSES]
    groups = np.repeat(np.arange(len(sizes)), sizes).astype(np.int8)
    return groups, np.concatenate([np.arange(size) for size in sizes]).astype(np.int16)


def token_table(text: Text, text_of: TextOf | None) -> pa.Table:
    """Return the tokens that occur in a text, each with its string and how often it does.

    Args:
        text: whose tokens.
        text_of: the strings of token ids; None where there is no tokenizer.
    """
    counts = np.diff(text.id_starts)
    ids = np.flatnonzero(counts)
    strings = None if text_of is None else text_of(ids.tolist())
    return pa.table(
        {
            "id": ids.astype(np.int32),
            "text": pa.nulls(len(ids), pa.string()) if strings is None else strings,
            "n": counts[ids],
        },
        TOKENS_SCHEMA,
    )
