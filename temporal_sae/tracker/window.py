"""The last closed window: every count of a pair, from nothing but the tokens' active latents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae.kernels import windows

PAIRS_AT_ONCE = 2**24


class OpenWindow:
    """The tokens of the window that is not yet full, as pieces of the batches they came in."""

    def __init__(self) -> None:
        self.pieces: list[Tensor] = []
        self.size = 0

    def add(self, indices: Int[Tensor, "tokens k"]) -> None:
        self.pieces.append(indices)
        self.size += indices.shape[0]

    def joined(self) -> Int[Tensor, "tokens k"]:
        """Return all tokens as one tensor, as wide as the widest piece."""
        width = max(p.shape[1] for p in self.pieces)
        padded = [
            torch.nn.functional.pad(p, (0, width - p.shape[1]), value=-1) for p in self.pieces
        ]
        return torch.cat(padded)

    def take(self) -> Int[Tensor, "tokens k"]:
        """Return all tokens; the window is empty afterwards."""
        tokens = self.joined()
        self.pieces, self.size = [], 0
        return tokens


class Window:
    """Tokens of one window, and the counts n_ij of their pairs.

    Args:
        rows: sorted latents of each token, -1 in empty slots, from `sorted_rows`.
        n_latents: F.
        relabel: index the latents that occur rather than all F, which pays when they are few.
    """

    def __init__(self, rows: Int[Tensor, "W K"], n_latents: int, relabel: bool = False) -> None:
        self.rows, self.n_latents = rows, n_latents
        self.n_tokens = rows.shape[0]
        self.labels: Int[Tensor, " labels"] | None = None
        if relabel and rows.numel() < n_latents:
            self.labels, rows = relabelled(rows, n_latents)
        self.n_labels = n_latents if self.labels is None else len(self.labels)
        self.index = windows.index_window(rows, self.n_labels)

    def counts(self, i: Tensor, j: Tensor) -> Int[Tensor, "*n"]:
        """n_ij of some pairs, in any order; n_ii is the tokens in which i is active."""
        if self.labels is None:
            return windows.pair_counts(self.index, i, j)
        (i, i_known), (j, j_known) = self._label(i), self._label(j)
        return windows.pair_counts(self.index, i, j) * (i_known & j_known)

    def _label(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        assert self.labels is not None
        place = torch.searchsorted(self.labels, latents.to(self.labels.dtype))
        place = place.clamp_(max=self.n_labels - 1)
        return place, self.labels[place] == latents

    def token_counts(self, tokens: Int[Tensor, " M"]) -> Int[Tensor, "M K K"]:
        """n_ij of the pairs active in some tokens, in the order of `rows`; 0 where i = j."""
        return windows.token_counts(self.index, tokens)

    def pairs(self, min_count: int = 1) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """i < j and n_ij of the pairs with that count, int32, a bounded number at a time.

        Some may have count 0, as padding.
        """
        for lo, hi in self._pieces():
            i, j, n = windows.distinct_pairs(self.index, lo, hi, min_count)
            yield (i, j, n) if self.labels is None else (self.labels[i], self.labels[j], n)

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """Ranges of labels with a bounded number of pairs; one range where counting would wait."""
        n_tokens, width = self.rows.shape
        n_pairs = n_tokens * width * (width - 1) // 2
        if n_pairs <= PAIRS_AT_ONCE or self.rows.device.type == "cuda":
            yield 0, self.n_labels
            return
        labels = self.index.rows
        later = ((labels >= 0).sum(-1, keepdim=True) - 1 - torch.arange(width)).clamp(min=0)
        partners = torch.bincount(
            labels.clamp(min=0).flatten(), later.flatten(), minlength=self.n_labels
        )
        edges = torch.arange(1, n_pairs // PAIRS_AT_ONCE + 1) * float(PAIRS_AT_ONCE)
        ends = torch.searchsorted(partners.cumsum(0), edges.double()).clamp(max=self.n_labels)
        bounds = sorted({0, self.n_labels, *ends.tolist()})
        yield from pairwise(bounds)

    def count_rows(self, lo: int, hi: int) -> Int[Tensor, "rows F"]:
        """n_ij of the latents i from `lo` to `hi` with all j > i; 0 elsewhere."""
        if self.labels is None:
            return windows.count_rows(self.index, lo, hi)
        counts = torch.zeros(hi - lo, self.n_latents, dtype=torch.int32, device=self.rows.device)
        i, j = torch.triu_indices(hi - lo, self.n_latents, lo + 1, device=self.rows.device)
        counts[i, j] = self.counts(i + lo, j)
        return counts

    def histogram(self) -> Int[Tensor, " W+1"]:
        """Count the pairs that have each count from 1 on; entry 0 is 0."""
        return windows.count_histogram(self.index, 0, self.n_labels)

    def total(self) -> Int[Tensor, ""]:
        """Σ_{i<j} n_ij, from the number of active latents of each token."""
        sizes = (self.rows >= 0).sum(-1)
        return (sizes * (sizes - 1) // 2).sum()

    def nbytes(self) -> int:
        """Bytes held."""
        parts = {id(t): t.nbytes for t in (*self.index, self.rows) if isinstance(t, Tensor)}
        return sum(parts.values()) + (0 if self.labels is None else self.labels.nbytes)


def relabelled(
    rows: Int[Tensor, "W K"], n_latents: int
) -> tuple[Int[Tensor, " W*K"], Int[Tensor, "W K"]]:
    """Return the latents that occur, ascending (F where unused), and the rows by their numbers.

    As many places as slots, whatever occurs, so that a GPU is not waited for.
    """
    flat = torch.where(rows >= 0, rows, n_latents).flatten()
    latents, order = flat.sort()
    first = torch.ones_like(latents)
    first[1:] = latents[1:] != latents[:-1]
    number = first.cumsum(0) - 1
    labels = torch.full_like(latents, n_latents).scatter_(0, number, latents)
    local = torch.empty_like(flat).scatter_(0, order, number.to(flat.dtype)).view(rows.shape)
    return labels, torch.where(rows >= 0, local, -1)
