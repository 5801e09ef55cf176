"""The content of an atlas, latent by latent, with what its own tables leave to be looked up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from temporal_sae.atlas.columns import require
from temporal_sae.atlas.examples import N_INTERVALS, NEAR_MISSES, TOP
from temporal_sae.atlas.folder import EXAMPLES, LATENTS, TOKENS, Atlas
from temporal_sae.errors import RunError

DIGITS = 9  # with so many a float32 is read back to the bit
# Of a model with an unembedding.
OF_LOGITS = (
    *("top_logits", "top_logit_tokens", "bottom_logits", "bottom_logit_tokens"),
    *("logit_histogram", "logit_range"),
)
N_ALIGNED = 3  # of the model's dimensions, beside each latent
NEEDED = {
    LATENTS: (
        *("latent", "n", "density", "max_activation", "histogram"),
        *("nearest_by_cosine", "nearest_cosines", "nearest_by_phi", "nearest_phis"),
    ),
    EXAMPLES: (
        *("latent", "group", "rank", "token", "document", "position", "activation", "place"),
        *("token_ids", "activations"),
    ),
    TOKENS: ("id", "text"),
}


class Example(NamedTuple):
    """A context of a latent.

    Attributes:
        group, rank: as in `examples.parquet`.
        place: of the token that it is an example of, within the context.
        tokens: strings.
        values: the latent's activation at each.
        origin: document and position of that token, as text; None where they are not known.
        lowest, highest: activations between which those of its group are.
        share: of all tokens, that have such an activation.
    """

    group: int
    rank: int
    place: int
    tokens: list[str]
    values: list[float]
    origin: str | None
    lowest: float
    highest: float
    share: float


class Latent(NamedTuple):
    """All that is known of a latent.

    Attributes:
        number: which it is.
        columns: its row of `latents.parquet`, in which no number is NaN.
        vector: its decoder row; empty where it is not asked for.
        examples: in the order of the table.
    """

    number: int
    columns: dict[str, Any]
    vector: list[float]
    examples: list[Example]


class Contents:
    """The latents of an atlas, a few at a time.

    Args:
        atlas: finished.
        decoder: rows of all latents, float32 [d_sae, d_in]; None leaves the vectors out.

    Raises:
        RunError: a table lacks a column, or does not hold together.
    """

    def __init__(self, atlas: Atlas, decoder: np.ndarray | None) -> None:
        self.atlas, self.decoder, self.n_tokens = atlas, decoder, int(atlas.facts["n_tokens"])
        self.n_latents = atlas.latents.num_rows
        tables = {LATENTS: atlas.latents, EXAMPLES: atlas.examples, TOKENS: atlas.tokens}
        for name, table in tables.items():
            require(atlas.folder / name, table, NEEDED[name])
        self._check()

    def _check(self) -> None:
        """Refuse tables whose rows are not where they belong, whoever has written them."""
        examples = self.atlas.examples
        latents, place = self._latent_of_example, examples["place"].to_numpy()
        lengths = pc.list_value_length(examples["token_ids"]).to_numpy()
        whole = pc.list_value_length(examples["activations"]).to_numpy()
        partners, phis = (
            pc.list_value_length(self.atlas.latents[name]).fill_null(0)
            for name in ("nearest_by_phi", "nearest_phis")
        )
        in_order = np.array_equal(self.atlas.latents["latent"].to_numpy(), range(self.n_latents))
        if not (
            in_order
            and (np.diff(latents) >= 0).all()
            and (latents >= 0).all()
            and (latents < self.n_latents).all()
            and np.array_equal(lengths, whole)
            and partners.equals(phis)
            and ((place >= 0) & (place < lengths)).all()
            and all(map(self._are_latents, ("nearest_by_cosine", "nearest_by_phi")))
            and self._have_two_ends()
        ):
            raise RunError(
                f"{self.atlas.folder}: its tables do not belong together; build it again"
            )

    def _have_two_ends(self) -> bool:
        table = self.atlas.latents
        if "logit_range" not in table.column_names:
            return True
        lengths = pc.list_value_length(table["logit_range"]).fill_null(0).unique()
        return set(lengths.to_pylist()) <= {0, 2}

    def _are_latents(self, name: str) -> bool:
        found = pc.min_max(pc.list_flatten(self.atlas.latents[name])).as_py()
        return found["min"] is None or 0 <= found["min"] <= found["max"] < self.n_latents

    @cached_property
    def _latent_of_example(self) -> np.ndarray:
        return np.asarray(self.atlas.examples["latent"].to_numpy())

    @cached_property
    def _texts(self) -> dict[int, str]:
        """The strings of tokens by id."""
        tokens = self.atlas.tokens
        pairs = zip(tokens["id"].to_pylist(), tokens["text"].to_pylist(), strict=True)
        return {number: plain(text) for number, text in pairs if text is not None}

    def batches(self, size: int) -> Iterator[list[Latent]]:
        """Yield all latents, so many at a time."""
        for first in range(0, self.n_latents, size):
            yield self._latents(first, min(first + size, self.n_latents))

    def _latents(self, first: int, end: int) -> list[Latent]:
        width = end - first
        columns: dict[str, list[Any]] = {name: [[]] * width for name in OF_LOGITS}
        columns |= columns_of(self.atlas.latents.slice(first, width))
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        bounds = np.searchsorted(self._latent_of_example, np.arange(first, end + 1))
        examples = columns_of(self.atlas.examples.slice(bounds[0], bounds[-1] - bounds[0]))
        vectors = np.empty((width, 0)) if self.decoder is None else self.decoder[first:end]
        return [
            Latent(
                first + n,
                row,
                floats(vectors[n]),
                [
                    self._example(row, {name: column[e] for name, column in examples.items()})
                    for e in range(bounds[n] - bounds[0], bounds[n + 1] - bounds[0])
                ],
            )
            for n, row in enumerate(rows)
        ]

    def _example(self, latent: dict[str, Any], row: dict[str, Any]) -> Example:
        lowest, highest, share = self._interval(latent, row["group"])
        is_known = row["document"] >= 0 and row["position"] >= 0
        return Example(
            row["group"],
            row["rank"],
            row["place"],
            [self._texts.get(number, f"<{number}>") for number in row["token_ids"]],
            row["activations"],
            f"{row['document']}:{row['position']}" if is_known else None,
            lowest,
            highest,
            share,
        )

    def _interval(self, latent: dict[str, Any], group: int) -> tuple[float, float, float]:
        """Return the activations of a group of examples, and the share of all tokens with such."""
        most = latent["max_activation"]
        if group == TOP:
            return 0.0, most, latent["density"]
        if group == NEAR_MISSES:
            return 0.0, 0.0, 1.0 - latent["density"]
        fifth, heights = N_INTERVALS - group, latent["histogram"]
        of_fifth = len(heights) // N_INTERVALS
        own = heights[fifth * of_fifth : (fifth + 1) * of_fifth]
        bounds = most * fifth / N_INTERVALS, most * (fifth + 1) / N_INTERVALS
        return *bounds, sum(own) / max(self.n_tokens, 1)

    def partners(self, latent: Latent) -> tuple[list[int], list[float], list[float]]:
        """Return the latents that fire with it most, their φ, and the cosines of the firings.

        φ is the correlation of two rows of zeros and ones, of which n_ij / √(n_i n_j) is the
        cosine.
        """
        partners, phis = latent.columns["nearest_by_phi"], latent.columns["nearest_phis"]
        n_i, n = latent.columns["n"], self.n_tokens
        n_j = self.atlas.latents["n"].to_numpy()[partners].astype(np.float64)
        product = n_i * n_j
        both = (phis * np.sqrt(product * (n - n_i) * (n - n_j)) + product) / max(n, 1)
        return partners, phis, floats(both / np.sqrt(np.maximum(product, 1)))


def columns_of(table: pa.Table) -> dict[str, list[Any]]:
    """Return the columns of some rows as lists, in which what has no value is 0 or empty."""
    found: dict[str, list[Any]] = {}
    for name in table.column_names:
        kind, column = table.schema.field(name).type, table[name].combine_chunks()
        if pa.types.is_list(kind):
            found[name] = lists(column)
        elif pa.types.is_floating(kind):
            found[name] = floats(column.to_numpy(zero_copy_only=False))
        else:
            found[name] = column.to_pylist()
    return found


def lists(column: pa.ListArray) -> list[list[Any]]:
    """Return the lists of a column; an empty one for null."""
    values = column.flatten()
    items: list[Any] = values.to_pylist()
    if pa.types.is_floating(values.type):
        items = floats(values.to_numpy(zero_copy_only=False))
    elif pa.types.is_string(values.type):
        items = [plain(text or "") for text in items]
    sizes = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return [items[lo:hi] for lo, hi in pairwise([0, *np.cumsum(sizes)])]


def floats(values: np.ndarray | Sequence[float]) -> list[float]:
    """Return numbers with as many digits as float32 has; 0 for what is not finite."""
    numbers = np.nan_to_num(np.asarray(values, np.float64), posinf=0.0, neginf=0.0)
    size = np.abs(numbers)
    places = DIGITS - 1 - np.floor(np.log10(size, where=size > 0, out=np.zeros_like(size)))
    scale = 10.0 ** np.clip(places, 0, 300)
    rounded: list[float] = (np.rint(numbers * scale) / scale).tolist()
    return rounded


def plain(text: str) -> str:
    """Return a text without NUL, which no table of PostgreSQL takes."""
    return text.replace("\0", "␀")


def aligned(vector: list[float]) -> tuple[list[int], list[float], list[float]]:
    """Return the dimensions in which a vector is largest, its values, and their shares of Σ|v|."""
    row = np.asarray(vector)
    which = np.argsort(-row, kind="stable")[:N_ALIGNED]
    total = np.abs(row).sum() or 1.0
    return which.tolist(), row[which].tolist(), floats(np.abs(row[which]) / total)


def middles(lowest: float, highest: float, n: int) -> list[float]:
    """Return the middle of each of so many equal intervals."""
    return floats(lowest + (np.arange(n) + 0.5) * (highest - lowest) / max(n, 1))
