"""The operations of `plain` in numba, on torch's threads: tensors in, tensors out.

A window is kept three ways: the latents of each token (rows), the tokens of each latent (as slices
of one list), and one bit for each latent and token. The counts of a row of pairs (i, j), j > i, are
then gathered in a buffer that fits the first-level cache, from the tails of the rows of i's tokens;
a single pair's count is a population count of two bit rows. No matrix of counts ever exists.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.kernels import loops, penalty_loops
from temporal_sae.kernels.alpha import AlphaStep
from temporal_sae.kernels.hash_map import PairMap
from temporal_sae.kernels.plain import EPSILON
from temporal_sae.kernels.threads import on_threads

__all__ = ["PairMap", "WindowIndex"]

PARTS_OF_A_GRADIENT = 8  # not by threads: the order of its sum must not depend on them


class WindowIndex(NamedTuple):
    """A closed window, ready for questions about its pairs."""

    rows: Int[Tensor, "W K"]
    sizes: Int[Tensor, " W"]
    starts: Int[Tensor, " F+1"]
    tokens: Int[Tensor, " active"]
    slots: Int[Tensor, " active"]
    bits: Int[Tensor, "F words"]

    @property
    def n_tokens(self) -> int:
        return self.rows.shape[0]

    @property
    def n_latents(self) -> int:
        return self.starts.shape[0] - 1

    def lists(self) -> tuple[np.ndarray, ...]:
        """What the loops walk: rows, their sizes, and the tokens and slots of each latent."""
        return tuple(t.numpy() for t in self[:5])

    def counter(self) -> np.ndarray:
        """An array of the smallest integer type that can count to W."""
        kind = np.uint16 if self.n_tokens < 2**16 else np.uint32
        return np.zeros(1, kind)


def sorted_rows(indices: Int[Tensor, "tokens K"], n_latents: int) -> Int[Tensor, "tokens K"]:
    """See `plain.sorted_rows`."""
    rows = torch.empty(indices.shape, dtype=torch.int32)
    problems = np.zeros(len(indices), np.bool_)
    on_threads(loops.sort_rows, indices.contiguous().numpy(), n_latents, rows.numpy(), problems)
    if not problems.any():
        return rows
    token = int(problems.argmax())
    latents = indices[token]
    outside = latents[(latents < -1) | (latents >= n_latents)]
    if len(outside):
        allowed = f"from -1 (empty) to {n_latents - 1}"
        raise ValueError(f"indices: found {int(outside[0])}, must be {allowed}")
    same = rows[token, 1:][(rows[token, 1:] == rows[token, :-1]) & (rows[token, 1:] >= 0)]
    raise ValueError(f"indices: latent {int(same[0])} twice in token {token}")


def index_window(rows: Int[Tensor, "W K"], n_latents: int) -> WindowIndex:
    """See `plain.index_window`."""
    lists = loops.list_tokens(rows.contiguous().numpy(), n_latents)
    return WindowIndex(rows.contiguous(), *map(torch.from_numpy, lists))


def pair_counts(index: WindowIndex, i: Tensor, j: Tensor) -> Tensor:
    """See `plain.pair_counts`."""
    i, j = torch.broadcast_tensors(i, j)
    counts = torch.empty(i.shape, dtype=torch.int32)
    first, second = (t.reshape(-1).long().numpy() for t in (i, j))
    on_threads(loops.count_listed, index.bits.numpy(), first, second, counts.view(-1).numpy())
    return counts


def token_counts(index: WindowIndex, tokens: Int[Tensor, " M"]) -> Int[Tensor, "M K K"]:
    """See `plain.token_counts`."""
    width = index.rows.shape[1]
    counts = torch.zeros(len(tokens), width, width, dtype=torch.int32)
    sizes = index.sizes[tokens].numpy()
    rows = index.rows[tokens].numpy()
    on_threads(loops.count_in_tokens, index.bits.numpy(), rows, sizes, counts.numpy())
    return counts


def count_rows(index: WindowIndex, lo: int, hi: int) -> Int[Tensor, "rows F"]:
    """See `plain.count_rows`."""
    counts = torch.zeros(hi - lo, index.n_latents, dtype=torch.int32)
    on_threads(loops.count_rows, index.lists(), lo, hi, counts.numpy())
    return counts


def distinct_pairs(
    index: WindowIndex, lo: int, hi: int, min_count: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """See `plain.distinct_pairs`."""
    arguments = (index.lists(), lo, hi, min_count, index.counter())
    sizes = np.zeros(hi - lo, np.int64)
    on_threads(loops.list_pairs, *arguments, sizes, np.empty((3, 0), np.int32))
    ends = sizes.cumsum()
    out = np.empty((3, ends[-1] if len(ends) else 0), np.int32)
    if out.shape[1]:
        on_threads(loops.list_pairs, *arguments, ends - sizes, out)
    i, j, n = torch.from_numpy(out)
    return i, j, n


def count_histogram(index: WindowIndex, lo: int, hi: int) -> Int[Tensor, " W+1"]:
    """See `plain.count_histogram`."""
    sums = np.zeros((torch.get_num_threads(), index.n_tokens + 1), np.int64)
    on_threads(loops.histogram, index.lists(), lo, hi, index.counter(), sums)
    return torch.from_numpy(sums.sum(0))


def close_dense(
    averages: Float[Tensor, " pairs"],
    lo: int,
    hi: int,
    previous: WindowIndex | None,
    step: AlphaStep,
    window: WindowIndex,
) -> Float[Tensor, ""]:
    """See `plain.close_dense`."""
    sums = np.zeros(hi - lo)
    before = window if previous is None else previous
    on_threads(
        loops.close_rows,
        averages.numpy(),
        lo,
        hi,
        before.lists(),
        window.lists(),
        previous is not None,
        np.array([before.n_tokens, window.n_tokens], np.float32),
        step.source,
        np.array([step.cap, step.scale], np.float32),
        max(before.counter(), window.counter(), key=lambda counter: counter.itemsize),
        sums,
    )
    return torch.tensor(sums.sum())


def lookup_dense(
    averages: Float[Tensor, " pairs"], n_latents: int, lo: int, hi: int, i: Tensor, j: Tensor
) -> Float[Tensor, "*n"]:
    """See `plain.lookup_dense`."""
    values = torch.empty(i.shape)
    first, second = (t.reshape(-1).numpy() for t in (i, j))
    places = (n_latents, lo, hi, first, second)
    on_threads(loops.look_up, averages.numpy(), *places, values.view(-1).numpy())
    return values


def overlap_slopes(
    gram: Float[Tensor, "m k k"], weights: Float[Tensor, "m k k"], penalty: str
) -> tuple[Float[Tensor, ""], Float[Tensor, "m k k"]]:
    """See `plain.overlap_slopes`; `gram` becomes T."""
    sums = np.zeros(gram.shape[:2], gram.numpy().dtype)
    square = penalty == "square"
    inverse, short = penalty_loops.inverse_norms(gram.numpy(), EPSILON)
    arrays = (gram.numpy(), weights.contiguous().numpy(), inverse, short)
    on_threads(penalty_loops.overlap_slopes, *arrays, square, sums)
    return torch.tensor(sums.sum(), dtype=gram.dtype), gram


def add_rows(
    into: Float[Tensor, "F d"], rows: Int[Tensor, " n"], gradients: Float[Tensor, "n d"]
) -> None:
    """See `plain.add_rows`."""
    arrays = (into.numpy(), rows.numpy(), gradients.contiguous().numpy())
    on_threads(penalty_loops.add_rows, *arrays)


def activation_rows(
    rows: Int[Tensor, "B K"],
    values: Float[Tensor, "B K"],
    weights: Float[Tensor, "rows F"],
    lo: int,
    penalty: str,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B K"]]:
    """See `plain.activation_rows`."""
    lists = loops.list_tokens(rows.contiguous().numpy(), weights.shape[1])[:4]
    sums = np.zeros(weights.shape[0])
    gradients = torch.zeros(PARTS_OF_A_GRADIENT, *values.shape, dtype=values.dtype)
    on_threads(
        penalty_loops.activation_rows,
        (rows.contiguous().numpy(), *lists),
        values.detach().contiguous().numpy(),
        weights.contiguous().numpy(),
        lo,
        penalty == "square",
        sums,
        gradients.numpy(),
    )
    return torch.tensor(sums.sum(), dtype=values.dtype), gradients.sum(0)
