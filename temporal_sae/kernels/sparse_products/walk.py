"""The order in which rows are gathered on the CPU, so that they come from its caches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae.kernels.sparse_products.naive import ByLatent
from temporal_sae.kernels.threads import as_array, compiled, on_threads

WIDEST, NARROWEST = 384, 64  # columns of a block
BLOCK_BYTES = 5 * 2**20  # of a block, between those: a share of the last-level cache
GATHERED_OFTEN = 6  # times on average, from which on blocks and the order of latents pay


def list_by_latent(indices: Int[Tensor, "B K"], d_sae: int) -> ByLatent:
    starts = torch.zeros(d_sae + 1, dtype=torch.int64)
    slots = torch.empty(indices.numel(), dtype=torch.int32)
    _list_by_latent(as_array(indices), starts.numpy(), slots.numpy())
    return ByLatent(starts, slots)


def walks_latents(indices: Tensor, W: Tensor) -> bool:
    """Return whether rows of W are gathered often and do not stay in the caches meanwhile."""
    return 4 * W.numel() > BLOCK_BYTES and indices.numel() >= GATHERED_OFTEN * len(W)


def in_latent_order(lists: ByLatent, values: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the starts of latents, and the token and the value of each slot in their order."""
    starts, slots = as_array(lists.starts), as_array(lists.slots)
    tokens, kept = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    on_threads(_take_slots_loop, slots, as_array(values), tokens, kept)
    return starts, tokens, kept


def blocks(matrix: np.ndarray, n_gathers: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield each block of columns: its bounds, and what is in it until the next one comes."""
    n, d = matrix.shape
    width = block_width(n, d, n_gathers)
    if d <= width:
        yield 0, d, matrix
        return
    block = np.empty((n, width), matrix.dtype)
    for lo in range(0, d, width):
        hi = min(lo + width, d)
        on_threads(_copy_columns_loop, matrix, lo, hi, block)
        yield lo, hi, block


def block_width(n_rows: int, d: int, n_gathers: int) -> int:
    """Return the columns of a block: not by the machine, since the order of sums depends on it."""
    fitting = BLOCK_BYTES // (4 * max(1, n_rows)) // 32 * 32
    often = n_gathers >= GATHERED_OFTEN * n_rows
    return min(d, WIDEST, max(NARROWEST, fitting)) if often else d


@compiled
def _copy_columns_loop(part, parts, matrix, lo, hi, block):
    """Copy the columns `lo` to `hi` of a matrix to where they are contiguous."""
    for i in range(part * len(matrix) // parts, (part + 1) * len(matrix) // parts):
        block[i, : hi - lo] = matrix[i, lo:hi]


@compiled
def _take_slots_loop(part, parts, slots, values, tokens, kept):
    """Write the token and the value of each slot, in their order."""
    width = values.shape[1]
    flat = values.reshape(-1)
    for e in range(part * tokens.size // parts, (part + 1) * tokens.size // parts):
        tokens[e], kept[e] = slots[e] // width, flat[slots[e]]


@compiled
def _list_by_latent(indices, starts, slots):
    """Sort the slots by their latents, by counting."""
    flat = indices.reshape(-1)
    for latent in flat:
        if latent >= 0:
            starts[latent + 1] += 1
    for i in range(starts.size - 1):
        starts[i + 1] += starts[i]
    place = starts[:-1].copy()
    for slot in range(flat.size):
        latent = flat[slot]
        if latent >= 0:
            slots[place[latent]] = slot
            place[latent] += 1
